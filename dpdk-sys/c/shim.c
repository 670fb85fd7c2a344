/* See shim.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shim.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_errno.h>
#include <rte_hash_crc.h>
#include <rte_lcore.h>
#include <rte_log.h>

int shunt_rte_errno(void) { return rte_errno; }

void shunt_clear_rte_errno(void) { rte_errno = 0; }

unsigned int shunt_lcore_id(void) { return rte_lcore_id(); }

static shunt_log_fn log_fn;

static ssize_t log_write(void *cookie, const char *text, size_t len) {
    (void)cookie;
    int level = rte_log_cur_msg_loglevel();
    log_fn(level < 0 ? 0 : (uint32_t)level, text, len);
    return (ssize_t)len;
}

int shunt_log_redirect(shunt_log_fn fn) {
    const cookie_io_functions_t io = {.write = log_write};
    log_fn = fn;
    FILE *stream = fopencookie(NULL, "w", io);
    if (stream == NULL) return -ENOMEM;
    /* Unbuffered: EAL's messages reach the callback while their level is still known. */
    setvbuf(stream, NULL, _IONBF, 0);
    return rte_openlog_stream(stream) == 0 ? 0 : -EINVAL;
}

int shunt_mempool_get(struct rte_mempool *pool, void **object) {
    return rte_mempool_get(pool, object);
}

void shunt_mempool_put(struct rte_mempool *pool, void *object) { rte_mempool_put(pool, object); }

void shunt_mempool_cache_flush(struct rte_mempool *pool) {
    struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, rte_lcore_id());
    if (cache != NULL && cache->len != 0) rte_mempool_cache_flush(cache, pool);
}

void shunt_pktmbuf_free_seg(struct rte_mbuf *segment) { rte_pktmbuf_free_seg(segment); }

int shunt_packet_ignore_outgoing(int fd, unsigned int if_index) {
    struct sockaddr_ll address = {0};
    socklen_t len = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0) return 0;
    if (address.sll_family != AF_PACKET || address.sll_ifindex != (int)if_index) return 0;
    /*
     * PACKET_IGNORE_OUTGOING would be the plain way, but a fanout group, which the driver makes
     * even of one socket, keeps what it was when the group was made.
     */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, SKF_AD_OFF + SKF_AD_PKTTYPE),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog filter = {.len = RTE_DIM(code), .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0 ? 1 : -errno;
}

int shunt_interface_is_running(const char *name) {
    struct ifreq request = {0};
    if (strlen(name) >= sizeof(request.ifr_name)) return 0;
    strcpy(request.ifr_name, name);
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return 0;
    const int known = ioctl(fd, SIOCGIFFLAGS, &request) == 0;
    close(fd);
    return known && (request.ifr_flags & IFF_RUNNING) != 0;
}

/* The hash of l3fwd's exact match: one CRC step for each word of the key. */
static uint32_t reference_hash(const void *key, uint32_t length, uint32_t seed) {
    const uint32_t *words = key;
    for (uint32_t n = 0; n < length / sizeof(*words); n++) seed = rte_hash_crc_4byte(words[n], seed);
    return seed;
}

struct rte_flow *shunt_flow_to_queue(uint16_t port, bool tagged, bool ipv6, const uint8_t *address,
                                     uint8_t protocol, uint16_t low, uint16_t mask, uint16_t queue) {
    struct rte_flow_item_ipv4 to4 = {0}, mask4 = {0};
    struct rte_flow_item_ipv6 to6 = {0}, mask6 = {0};
    struct rte_flow_item_tcp tcp = {0}, mask_tcp = {0};
    struct rte_flow_item_udp udp = {0}, mask_udp = {0};
    if (ipv6) {
        memcpy(to6.hdr.dst_addr, address, sizeof(to6.hdr.dst_addr));
        memset(mask6.hdr.dst_addr, 0xff, sizeof(mask6.hdr.dst_addr));
    } else {
        memcpy(&to4.hdr.dst_addr, address, sizeof(to4.hdr.dst_addr));
        mask4.hdr.dst_addr = UINT32_MAX;
    }
    tcp.hdr.dst_port = udp.hdr.dst_port = rte_cpu_to_be_16(low);
    mask_tcp.hdr.dst_port = mask_udp.hdr.dst_port = rte_cpu_to_be_16(mask);

    struct rte_flow_item pattern[5] = {{.type = RTE_FLOW_ITEM_TYPE_ETH}};
    unsigned int n = 1;
    if (tagged) pattern[n++] = (struct rte_flow_item){.type = RTE_FLOW_ITEM_TYPE_VLAN};
    pattern[n++] = ipv6 ? (struct rte_flow_item){RTE_FLOW_ITEM_TYPE_IPV6, &to6, NULL, &mask6}
                        : (struct rte_flow_item){RTE_FLOW_ITEM_TYPE_IPV4, &to4, NULL, &mask4};
    pattern[n++] = protocol == IPPROTO_TCP
                       ? (struct rte_flow_item){RTE_FLOW_ITEM_TYPE_TCP, &tcp, NULL, &mask_tcp}
                       : (struct rte_flow_item){RTE_FLOW_ITEM_TYPE_UDP, &udp, NULL, &mask_udp};
    pattern[n] = (struct rte_flow_item){.type = RTE_FLOW_ITEM_TYPE_END};

    const struct rte_flow_attr attributes = {.ingress = 1};
    const struct rte_flow_action_queue by = {.index = queue};
    const struct rte_flow_action actions[] = {
        {.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &by},
        {.type = RTE_FLOW_ACTION_TYPE_END},
    };
    struct rte_flow_error error = {0};
    return rte_flow_create(port, &attributes, pattern, actions, &error);
}

int shunt_flow_forget(uint16_t port, struct rte_flow *rule) {
    struct rte_flow_error error = {0};
    return rte_flow_destroy(port, rule, &error);
}

struct rte_hash *shunt_reference_hash_create(const char *name, uint32_t entries) {
    const struct rte_hash_parameters parameters = {
        .name = name,
        .entries = entries,
        .key_len = 16,
        .hash_func = reference_hash,
        .socket_id = SOCKET_ID_ANY,
    };
    return rte_hash_create(&parameters);
}

struct rte_mbuf *shunt_ref_pktmbuf_alloc(struct rte_mempool *pool) {
    return rte_pktmbuf_alloc(pool);
}

void shunt_ref_pktmbuf_free(struct rte_mbuf *packet) { rte_pktmbuf_free(packet); }

char *shunt_ref_pktmbuf_prepend(struct rte_mbuf *packet, uint16_t len) {
    return rte_pktmbuf_prepend(packet, len);
}

char *shunt_ref_pktmbuf_adj(struct rte_mbuf *packet, uint16_t len) {
    return rte_pktmbuf_adj(packet, len);
}

char *shunt_ref_pktmbuf_append(struct rte_mbuf *packet, uint16_t len) {
    return rte_pktmbuf_append(packet, len);
}

int shunt_ref_pktmbuf_trim(struct rte_mbuf *packet, uint16_t len) {
    return rte_pktmbuf_trim(packet, len);
}

int shunt_ref_pktmbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail) {
    return rte_pktmbuf_chain(head, tail);
}

int shunt_ref_pktmbuf_linearize(struct rte_mbuf *packet) { return rte_pktmbuf_linearize(packet); }

uint16_t shunt_ref_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets,
                                uint16_t n) {
    return rte_eth_rx_burst(port, queue, packets, n);
}

uint16_t shunt_ref_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets,
                                uint16_t n) {
    return rte_eth_tx_burst(port, queue, packets, n);
}
