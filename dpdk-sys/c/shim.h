/*
 * What Rust cannot reach in DPDK: thread-local variables, inline functions off the hot path, and
 * a stdio stream for the log. Also the C originals of the inline functions that src/ rewrites, so
 * that tests can hold both equal.
 */
#ifndef SHUNT_DPDK_SHIM_H
#define SHUNT_DPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_hash.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* rte_errno of the calling thread. */
int shunt_rte_errno(void);
void shunt_clear_rte_errno(void);
/* rte_lcore_id() of the calling thread; LCORE_ID_ANY if it is not registered. */
unsigned int shunt_lcore_id(void);

/* A line or a piece of one, `len` bytes, of rte_log level `level`. */
typedef void (*shunt_log_fn)(uint32_t level, const char *text, size_t len);
/* Sends all log output to `fn` from now on. 0, or a negative errno. */
int shunt_log_redirect(shunt_log_fn fn);

/* rte_mempool_get() and rte_mempool_put() with the calling thread's own cache. */
int shunt_mempool_get(struct rte_mempool *pool, void **object);
void shunt_mempool_put(struct rte_mempool *pool, void *object);
/* Gives the calling thread's cached objects back to the pool. */
void shunt_mempool_cache_flush(struct rte_mempool *pool);
/* Frees one segment, whatever its kind (indirect, external buffer, shared). */
void shunt_pktmbuf_free_seg(struct rte_mbuf *segment);

/*
 * If `fd` is a packet socket bound to interface `if_index`: stops the kernel from handing it frames
 * that this machine sends. 1 if done, 0 if it is no such socket, or a negative errno.
 */
int shunt_packet_ignore_outgoing(int fd, unsigned int if_index);

/* 1 if the kernel interface `name` is there, up, and has a carrier; else 0. */
int shunt_interface_is_running(const char *name);

/*
 * A rule of the device: TCP (6) or UDP (17) packets to `address` (4 or 16 bytes, `ipv6` says which)
 * with a destination port whose bits under `mask` are `low` come by receive queue `queue`; of packets
 * with a VLAN tag, or without. NULL and rte_errno where the device does not take it.
 */
struct rte_flow *shunt_flow_to_queue(uint16_t port, bool tagged, bool ipv6, const uint8_t *address,
                                     uint8_t protocol, uint16_t low, uint16_t mask, uint16_t queue);
/* Takes a rule back. 0, or a negative errno. */
int shunt_flow_forget(uint16_t port, struct rte_flow *rule);

/*
 * For benchmarks: a table of 16-byte keys with a CRC for a hash, as DPDK's l3fwd makes it (exact
 * match). NULL and rte_errno where it cannot be made.
 */
struct rte_hash *shunt_reference_hash_create(const char *name, uint32_t entries);

/* The C originals, for tests. */
struct rte_mbuf *shunt_ref_pktmbuf_alloc(struct rte_mempool *pool);
void shunt_ref_pktmbuf_free(struct rte_mbuf *packet);
char *shunt_ref_pktmbuf_prepend(struct rte_mbuf *packet, uint16_t len);
char *shunt_ref_pktmbuf_adj(struct rte_mbuf *packet, uint16_t len);
char *shunt_ref_pktmbuf_append(struct rte_mbuf *packet, uint16_t len);
int shunt_ref_pktmbuf_trim(struct rte_mbuf *packet, uint16_t len);
int shunt_ref_pktmbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail);
int shunt_ref_pktmbuf_linearize(struct rte_mbuf *packet);
uint16_t shunt_ref_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n);
uint16_t shunt_ref_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t n);

#endif
