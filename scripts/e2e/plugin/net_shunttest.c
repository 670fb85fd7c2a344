/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_shunttest: a DPDK driver that Shunt does not know, for its end-to-end tests. A plugin as others
 * would write it: out of DPDK's tree, a shared object that EAL loads with `-d`. The device is a TAP
 * interface of the kernel, and does whatever a driver may do that the usual ones do not:
 *
 *   iface=NAME   the TAP interface (must be given)
 *   most=N       it gives and takes at most N packets a burst (default 32)
 *   split=N      the first N bytes of a received frame are in one segment, the rest in another
 *                (default 0: all in one)
 *   queues=N     it has up to N queue pairs (default 1, at most 8). Each frame goes to the queue of the
 *                first flow rule that fits, or else of RSS, or else to queue 0
 *   lie=1        it offers offloads that it has not, says of every other received packet that its
 *                checksums are wrong, of the rest that they are right, and leaves marks for
 *                transmission on all of them
 *
 * It is strict in turn: a port that is configured with an offload does not start, and a packet that
 * asks for one, or has several segments, is not sent but counted as a transmit error.
 *
 * What it steers by, in software, is what a NIC that Shunt can use offers: RSS of TCP and UDP by source
 * or by destination, address and port, with a Toeplitz key and an indirection table that are set; and
 * rules of the pattern ETH / [VLAN] / IPV4 or IPV6 with a destination / TCP or UDP with a masked
 * destination port, with the action QUEUE. Frames with one VLAN tag are looked into, none with IPv4
 * options or IPv6 extensions.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <ethdev_driver.h>
#include <ethdev_vdev.h>
#include <rte_ether.h>
#include <rte_flow_driver.h>
#include <rte_ip.h>
#include <rte_kvargs.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_spinlock.h>

#define SAY(...) RTE_LOG(ERR, PMD, "net_shunttest: " __VA_ARGS__)

/* The longest frame: an MTU of 1500 and two VLAN tags. */
#define MAX_MTU 1500
#define MAX_FRAME (MAX_MTU + RTE_ETHER_HDR_LEN + 2 * RTE_VLAN_HLEN)

/* What it offers when it lies. */
#define RX_LIES (RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM | \
                 RTE_ETH_RX_OFFLOAD_UDP_CKSUM | RTE_ETH_RX_OFFLOAD_RSS_HASH)
#define TX_LIES (RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM | \
                 RTE_ETH_TX_OFFLOAD_UDP_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_TSO | \
                 RTE_ETH_TX_OFFLOAD_VLAN_INSERT)

/* Written by the queue's worker alone, read by anyone. */
struct counters {
    uint64_t packets, bytes, errors, no_mbuf;
};

/* Most queues, frames that wait for the worker of one, and entries of the indirection table. */
#define QUEUES 8
#define DEPTH 512
#define TABLE RTE_ETH_RSS_RETA_SIZE_128

struct device;

/* A queue pair. What waits was read by another queue's worker, under the device's lock. */
struct queue {
    struct device *device;
    struct rte_mbuf *waiting[DEPTH];
    unsigned int head, tail;
    struct counters rx, tx;
};

/* Where TCP or UDP packets come in: those to `address` with `low` under `mask` in their port. */
struct rte_flow {
    TAILQ_ENTRY(rte_flow) next;
    bool tagged, ipv6;
    uint8_t protocol;
    uint8_t address[16];
    uint16_t low, mask, queue;
};

struct device {
    int fd;
    uint16_t port;
    uint16_t most;
    uint16_t split;
    uint16_t queues;
    bool lie;
    struct rte_ether_addr mac;
    struct rte_mempool *pool;
    /* Serialises the reading end, rules and the table. */
    rte_spinlock_t lock;
    /* The segments that the next frame is read into; the second only with `split`. */
    struct rte_mbuf *first, *second;
    uint64_t frames;
    /* RSS: what it hashes, 0 for none. */
    uint64_t hashes;
    uint8_t key[40];
    uint16_t table[TABLE];
    TAILQ_HEAD(, rte_flow) rules;
    struct queue queue[QUEUES];
};

static void add(uint64_t *counter, uint64_t n) {
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static uint64_t count(const uint64_t *counter) {
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* The packet path */

/* Makes sure that there are segments to read into. */
static bool has_segments(struct device *d) {
    if (d->first == NULL) d->first = rte_pktmbuf_alloc(d->pool);
    if (d->split != 0 && d->second == NULL) d->second = rte_pktmbuf_alloc(d->pool);
    return d->first != NULL && (d->split == 0 || d->second != NULL);
}

static void tell_lies(struct rte_mbuf *m, uint64_t nth) {
    m->ol_flags |= nth % 2 == 0 ? RTE_MBUF_F_RX_IP_CKSUM_BAD | RTE_MBUF_F_RX_L4_CKSUM_BAD
                                : RTE_MBUF_F_RX_IP_CKSUM_GOOD | RTE_MBUF_F_RX_L4_CKSUM_GOOD;
    m->ol_flags |= RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_TCP_CKSUM | RTE_MBUF_F_TX_IP_CKSUM |
                   RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_VLAN;
    m->tx_offload = UINT64_MAX;
    m->vlan_tci = 0xfff;
    m->packet_type = UINT32_MAX;
}

/* Steering */

/* What a packet is steered by; protocol 0: it has no ports that are looked for. */
struct ends {
    bool tagged, ipv6;
    uint8_t protocol;
    const uint8_t *source, *destination;
    uint16_t source_port, destination_port; /* as in the packet */
};

static struct ends ends_of(const struct rte_mbuf *m) {
    /* A copy of the beginning: it may be in two segments. */
    static __thread uint8_t head[128];
    struct ends e = {0};
    const uint32_t len = RTE_MIN(m->pkt_len, (uint32_t)sizeof(head));
    const uint8_t *at = rte_pktmbuf_read(m, 0, len, head);
    if (at == NULL) return e;
    if (at != head) memcpy(head, at, len);
    uint32_t l3 = RTE_ETHER_HDR_LEN;
    uint16_t type;
    memcpy(&type, head + 12, sizeof(type));
    if (type == RTE_BE16(RTE_ETHER_TYPE_VLAN)) {
        e.tagged = true;
        memcpy(&type, head + 16, sizeof(type));
        l3 += RTE_VLAN_HLEN;
    }
    uint32_t l4;
    uint8_t protocol;
    if (type == RTE_BE16(RTE_ETHER_TYPE_IPV4) && len >= l3 + 24 && head[l3] == 0x45) {
        if (((head[l3 + 6] << 8 | head[l3 + 7]) & 0x3fff) != 0) return e; /* a fragment */
        protocol = head[l3 + 9];
        e.source = head + l3 + 12;
        e.destination = head + l3 + 16;
        l4 = l3 + 20;
    } else if (type == RTE_BE16(RTE_ETHER_TYPE_IPV6) && len >= l3 + 44) {
        e.ipv6 = true;
        protocol = head[l3 + 6];
        e.source = head + l3 + 8;
        e.destination = head + l3 + 24;
        l4 = l3 + 40;
    } else {
        return e;
    }
    if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) return e;
    e.protocol = protocol;
    memcpy(&e.source_port, head + l4, 2);
    memcpy(&e.destination_port, head + l4 + 2, 2);
    return e;
}

static size_t address_bytes(bool ipv6) { return ipv6 ? 16 : 4; }

/* Address and port of one side. */
static uint32_t hash(const struct device *d, const struct ends *e) {
    const bool source = (d->hashes & RTE_ETH_RSS_L3_SRC_ONLY) != 0;
    const size_t bytes = address_bytes(e->ipv6);
    uint8_t input[18];
    memcpy(input, source ? e->source : e->destination, bytes);
    memcpy(input + bytes, source ? &e->source_port : &e->destination_port, 2);
    uint32_t sum = 0;
    for (size_t bit = 0; bit < (bytes + 2) * 8; bit++) {
        if ((input[bit / 8] >> (7 - bit % 8) & 1) == 0) continue;
        for (size_t k = 0; k < 32; k++)
            sum ^= (uint32_t)(d->key[(bit + k) / 8] >> (7 - (bit + k) % 8) & 1) << (31 - k);
    }
    return sum;
}

static uint16_t queue_of(const struct device *d, const struct rte_mbuf *m) {
    const struct ends e = ends_of(m);
    if (e.protocol == 0) return 0;
    const struct rte_flow *rule;
    TAILQ_FOREACH(rule, &d->rules, next) {
        if (rule->tagged == e.tagged && rule->ipv6 == e.ipv6 && rule->protocol == e.protocol &&
            memcmp(rule->address, e.destination, address_bytes(e.ipv6)) == 0 &&
            (rte_be_to_cpu_16(e.destination_port) & rule->mask) == rule->low)
            return rule->queue;
    }
    return d->hashes == 0 ? 0 : d->table[hash(d, &e) % TABLE];
}

/* The next frame of the interface; NULL if there is none. */
static struct rte_mbuf *next_frame(struct device *d, struct queue *q) {
    if (!has_segments(d)) {
        add(&q->rx.no_mbuf, 1);
        return NULL;
    }
    struct iovec parts[2] = {
        {rte_pktmbuf_mtod(d->first, void *), d->split != 0 ? d->split : MAX_FRAME},
    };
    if (d->second != NULL)
        parts[1] = (struct iovec){rte_pktmbuf_mtod(d->second, void *), MAX_FRAME};
    const ssize_t len = readv(d->fd, parts, d->second != NULL ? 2 : 1);
    if (len <= 0) return NULL;

    struct rte_mbuf *m = d->first;
    d->first = NULL;
    m->port = d->port;
    m->pkt_len = (uint32_t)len;
    m->data_len = (uint16_t)RTE_MIN((size_t)len, parts[0].iov_len);
    if (m->pkt_len > m->data_len) {
        d->second->data_len = (uint16_t)(m->pkt_len - m->data_len);
        m->next = d->second;
        m->nb_segs = 2;
        d->second = NULL;
    }
    if (d->lie) tell_lies(m, d->frames);
    d->frames++;
    return m;
}

static uint16_t receive(void *queue, struct rte_mbuf **packets, uint16_t n) {
    struct queue *q = queue;
    struct device *d = q->device;
    uint64_t bytes = 0;
    uint16_t got = 0;
    n = RTE_MIN(n, d->most);
    /* Who finds another reading comes again: receiving never waits. */
    if (!rte_spinlock_trylock(&d->lock)) return 0;
    for (uint16_t read = 0; read < n; read++) {
        struct rte_mbuf *m = next_frame(d, q);
        if (m == NULL) break;
        struct queue *to = &d->queue[queue_of(d, m)];
        if (to->tail - to->head == DEPTH) {
            add(&q->rx.errors, 1);
            rte_pktmbuf_free(m);
            continue;
        }
        to->waiting[to->tail++ % DEPTH] = m;
    }
    for (; got < n && q->head != q->tail; got++) {
        packets[got] = q->waiting[q->head++ % DEPTH];
        bytes += packets[got]->pkt_len;
    }
    rte_spinlock_unlock(&d->lock);
    add(&q->rx.packets, got);
    add(&q->rx.bytes, bytes);
    return got;
}

static uint16_t transmit(void *queue, struct rte_mbuf **packets, uint16_t n) {
    struct queue *q = queue;
    struct device *d = q->device;
    uint64_t sent = 0, bytes = 0;
    uint16_t taken = 0;
    for (n = RTE_MIN(n, d->most); taken < n; taken++) {
        struct rte_mbuf *m = packets[taken];
        const bool plain = m->nb_segs == 1 && m->next == NULL && m->pkt_len == m->data_len &&
                           (m->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK) == 0;
        if (!plain && q->tx.errors == 0) {
            SAY("cannot send a packet of %u segments that asks for %#llx\n", m->nb_segs,
                (unsigned long long)(m->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK));
        } else if (plain && write(d->fd, rte_pktmbuf_mtod(m, void *), m->data_len) == m->data_len) {
            sent++;
            bytes += m->data_len;
            rte_pktmbuf_free(m);
            continue;
        } else if (plain && (errno == EAGAIN || errno == EINTR)) {
            break;
        }
        add(&q->tx.errors, 1);
        rte_pktmbuf_free(m);
    }
    add(&q->tx.packets, sent);
    add(&q->tx.bytes, bytes);
    return taken;
}

/* Control */

/* What RSS can hash. */
#define RSS_TYPES (RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP | \
                   RTE_ETH_RSS_NONFRAG_IPV6_TCP | RTE_ETH_RSS_NONFRAG_IPV6_UDP)
#define RSS_SOURCE (RTE_ETH_RSS_L3_SRC_ONLY | RTE_ETH_RSS_L4_SRC_ONLY)
#define RSS_DESTINATION (RTE_ETH_RSS_L3_DST_ONLY | RTE_ETH_RSS_L4_DST_ONLY)

static int configure(struct rte_eth_dev *dev) {
    struct device *d = dev->data->dev_private;
    const struct rte_eth_conf *conf = &dev->data->dev_conf;
    const struct rte_eth_rss_conf *rss = &conf->rx_adv_conf.rss_conf;
    if ((conf->rxmode.offloads | conf->txmode.offloads) != 0) {
        SAY("asked for offloads that it only pretends to have: %#" PRIx64 ", %#" PRIx64 "\n",
            conf->rxmode.offloads, conf->txmode.offloads);
        return -EINVAL;
    }
    d->hashes = conf->rxmode.mq_mode == RTE_ETH_MQ_RX_RSS ? rss->rss_hf : 0;
    if (d->hashes == 0) return 0;
    const uint64_t sides = d->hashes & (RSS_SOURCE | RSS_DESTINATION);
    if ((sides != RSS_SOURCE && sides != RSS_DESTINATION) || rss->rss_key == NULL ||
        rss->rss_key_len != sizeof(d->key)) {
        SAY("it hashes one side, with a key of %zu bytes\n", sizeof(d->key));
        return -EINVAL;
    }
    memcpy(d->key, rss->rss_key, sizeof(d->key));
    return 0;
}

static int describe(struct rte_eth_dev *dev, struct rte_eth_dev_info *info) {
    const struct device *d = dev->data->dev_private;
    info->max_mac_addrs = 1;
    info->max_rx_queues = d->queues;
    info->max_tx_queues = d->queues;
    info->max_mtu = MAX_MTU;
    info->max_rx_pktlen = MAX_FRAME;
    if (d->queues > 1) {
        info->flow_type_rss_offloads = RSS_TYPES | RSS_SOURCE | RSS_DESTINATION;
        info->hash_key_size = sizeof(d->key);
        info->reta_size = TABLE;
    }
    if (d->lie) {
        info->rx_offload_capa = RX_LIES;
        info->tx_offload_capa = TX_LIES;
        info->flow_type_rss_offloads |= RTE_ETH_RSS_IP;
    }
    return 0;
}

static int fill_table(struct rte_eth_dev *dev, struct rte_eth_rss_reta_entry64 *groups,
                      uint16_t size) {
    struct device *d = dev->data->dev_private;
    if (size != TABLE) return -EINVAL;
    for (uint16_t n = 0; n < size; n++) {
        const struct rte_eth_rss_reta_entry64 *group = &groups[n / RTE_ETH_RETA_GROUP_SIZE];
        const uint16_t at = n % RTE_ETH_RETA_GROUP_SIZE;
        if ((group->mask >> at & 1) == 0) continue;
        if (group->reta[at] >= dev->data->nb_rx_queues) return -EINVAL;
        d->table[n] = group->reta[at];
    }
    return 0;
}

/* Reads a pattern and actions; 0, or a negative errno. */
static int read_rule(const struct rte_eth_dev *dev, const struct rte_flow_attr *attributes,
                     const struct rte_flow_item *item, const struct rte_flow_action *action,
                     struct rte_flow *rule) {
    static const uint8_t all[16] = {255, 255, 255, 255, 255, 255, 255, 255,
                                    255, 255, 255, 255, 255, 255, 255, 255};
    const struct device *d = dev->data->dev_private;
    *rule = (struct rte_flow){0};
    if (d->queues == 1) return -ENOTSUP;
    if (!attributes->ingress || item->type != RTE_FLOW_ITEM_TYPE_ETH || item->spec != NULL)
        return -EINVAL;
    item++;
    if (item->type == RTE_FLOW_ITEM_TYPE_VLAN && item->spec == NULL) {
        rule->tagged = true;
        item++;
    }
    if (item->spec == NULL || item->mask == NULL) return -EINVAL;
    if (item->type == RTE_FLOW_ITEM_TYPE_IPV4) {
        const struct rte_flow_item_ipv4 *spec = item->spec, *mask = item->mask;
        if (memcmp(&mask->hdr.dst_addr, all, 4) != 0 || mask->hdr.src_addr != 0) return -EINVAL;
        memcpy(rule->address, &spec->hdr.dst_addr, 4);
    } else if (item->type == RTE_FLOW_ITEM_TYPE_IPV6) {
        const struct rte_flow_item_ipv6 *spec = item->spec, *mask = item->mask;
        if (memcmp(mask->hdr.dst_addr, all, 16) != 0 || mask->hdr.src_addr[0] != 0) return -EINVAL;
        memcpy(rule->address, spec->hdr.dst_addr, 16);
        rule->ipv6 = true;
    } else {
        return -EINVAL;
    }
    item++;
    if (item->spec == NULL || item->mask == NULL) return -EINVAL;
    /* The ports of TCP and UDP are at the same place. */
    const struct rte_flow_item_udp *spec = item->spec, *mask = item->mask;
    if (item->type == RTE_FLOW_ITEM_TYPE_TCP) rule->protocol = IPPROTO_TCP;
    else if (item->type == RTE_FLOW_ITEM_TYPE_UDP) rule->protocol = IPPROTO_UDP;
    else return -EINVAL;
    if (mask->hdr.src_port != 0) return -EINVAL;
    rule->mask = rte_be_to_cpu_16(mask->hdr.dst_port);
    rule->low = rte_be_to_cpu_16(spec->hdr.dst_port) & rule->mask;
    if (item[1].type != RTE_FLOW_ITEM_TYPE_END || action->type != RTE_FLOW_ACTION_TYPE_QUEUE ||
        action[1].type != RTE_FLOW_ACTION_TYPE_END)
        return -EINVAL;
    rule->queue = ((const struct rte_flow_action_queue *)action->conf)->index;
    return rule->queue < dev->data->nb_rx_queues ? 0 : -EINVAL;
}

static struct rte_flow *make_rule(struct rte_eth_dev *dev, const struct rte_flow_attr *attributes,
                                  const struct rte_flow_item pattern[],
                                  const struct rte_flow_action actions[],
                                  struct rte_flow_error *error) {
    struct device *d = dev->data->dev_private;
    struct rte_flow read;
    const int result = read_rule(dev, attributes, pattern, actions, &read);
    struct rte_flow *rule = result == 0 ? malloc(sizeof(*rule)) : NULL;
    if (rule == NULL) {
        rte_flow_error_set(error, result == 0 ? ENOMEM : -result, RTE_FLOW_ERROR_TYPE_UNSPECIFIED,
                           NULL, "not a rule that it knows");
        return NULL;
    }
    *rule = read;
    rte_spinlock_lock(&d->lock);
    TAILQ_INSERT_TAIL(&d->rules, rule, next);
    rte_spinlock_unlock(&d->lock);
    return rule;
}

static int forget_rule(struct rte_eth_dev *dev, struct rte_flow *rule,
                       struct rte_flow_error *error) {
    struct device *d = dev->data->dev_private;
    (void)error;
    rte_spinlock_lock(&d->lock);
    TAILQ_REMOVE(&d->rules, rule, next);
    rte_spinlock_unlock(&d->lock);
    free(rule);
    return 0;
}

static const struct rte_flow_ops flow_ops = {.create = make_rule, .destroy = forget_rule};

static int give_flow_ops(struct rte_eth_dev *dev, const struct rte_flow_ops **ops) {
    const struct device *d = dev->data->dev_private;
    *ops = d->queues > 1 ? &flow_ops : NULL;
    return 0;
}

static int set_up_rx(struct rte_eth_dev *dev, uint16_t queue, uint16_t descriptors,
                     unsigned int socket, const struct rte_eth_rxconf *conf,
                     struct rte_mempool *pool) {
    struct device *d = dev->data->dev_private;
    (void)descriptors, (void)socket, (void)conf;
    if (rte_pktmbuf_data_room_size(pool) < RTE_PKTMBUF_HEADROOM + MAX_FRAME) {
        SAY("packet buffers are shorter than %d bytes\n", MAX_FRAME);
        return -EINVAL;
    }
    d->pool = pool;
    dev->data->rx_queues[queue] = &d->queue[queue];
    return 0;
}

static int set_up_tx(struct rte_eth_dev *dev, uint16_t queue, uint16_t descriptors,
                     unsigned int socket, const struct rte_eth_txconf *conf) {
    struct device *d = dev->data->dev_private;
    (void)descriptors, (void)socket, (void)conf;
    dev->data->tx_queues[queue] = &d->queue[queue];
    return 0;
}

static void release_rx(struct rte_eth_dev *dev, uint16_t queue) {
    struct queue *q = dev->data->rx_queues[queue];
    if (q == NULL) return;
    struct device *d = q->device;
    while (q->head != q->tail) rte_pktmbuf_free(q->waiting[q->head++ % DEPTH]);
    rte_pktmbuf_free(d->first);
    rte_pktmbuf_free(d->second);
    d->first = d->second = NULL;
}

static int start(struct rte_eth_dev *dev) {
    dev->data->dev_link.link_status = RTE_ETH_LINK_UP;
    return 0;
}

static int stop(struct rte_eth_dev *dev) {
    dev->data->dev_link.link_status = RTE_ETH_LINK_DOWN;
    return 0;
}

/* DPDK starts no port without this function. */
static int update_link(struct rte_eth_dev *dev, int wait) {
    (void)dev, (void)wait;
    return 0;
}

static int read_stats(struct rte_eth_dev *dev, struct rte_eth_stats *stats) {
    const struct device *d = dev->data->dev_private;
    for (const struct queue *q = d->queue; q < d->queue + d->queues; q++) {
        stats->ipackets += count(&q->rx.packets);
        stats->ibytes += count(&q->rx.bytes);
        stats->imissed += count(&q->rx.errors);
        stats->rx_nombuf += count(&q->rx.no_mbuf);
        stats->opackets += count(&q->tx.packets);
        stats->obytes += count(&q->tx.bytes);
        stats->oerrors += count(&q->tx.errors);
    }
    return 0;
}

static int end(struct rte_eth_dev *dev) {
    struct device *d = dev->data->dev_private;
    close(d->fd);
    for (struct rte_flow *rule; (rule = TAILQ_FIRST(&d->rules)) != NULL; free(rule))
        TAILQ_REMOVE(&d->rules, rule, next);
    /* It is part of the private data, which ethdev frees. */
    dev->data->mac_addrs = NULL;
    return 0;
}

/* Few on purpose: no MTU, MAC, promiscuous mode, extended counters, interrupts. */
static const struct eth_dev_ops ops = {
    .dev_configure = configure,
    .dev_start = start,
    .dev_stop = stop,
    .dev_close = end,
    .dev_infos_get = describe,
    .link_update = update_link,
    .rx_queue_setup = set_up_rx,
    .tx_queue_setup = set_up_tx,
    .rx_queue_release = release_rx,
    .stats_get = read_stats,
    .reta_update = fill_table,
    .flow_ops_get = give_flow_ops,
};

/* Making a device */

/* Makes the TAP interface and brings it up; returns its descriptor or a negative errno. */
static int open_tap(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    if (strlen(name) >= sizeof(request.ifr_name)) return -ENAMETOOLONG;
    strcpy(request.ifr_name, name);
    const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -errno;
    const int any = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int result = fd;
    if (any < 0 || ioctl(fd, TUNSETIFF, &request) != 0 ||
        ioctl(any, SIOCGIFFLAGS, &request) != 0) {
        result = -errno;
    } else {
        request.ifr_flags |= IFF_UP;
        if (ioctl(any, SIOCSIFFLAGS, &request) != 0) result = -errno;
    }
    if (any >= 0) close(any);
    if (result < 0) close(fd);
    return result;
}

static int keep_text(const char *key, const char *value, void *text) {
    (void)key;
    *(const char **)text = value;
    return 0;
}

static int keep_number(const char *key, const char *value, void *number) {
    char *rest;
    errno = 0;
    const unsigned long n = value != NULL ? strtoul(value, &rest, 10) : ULONG_MAX;
    if (n > MAX_FRAME || errno != 0 || rest == value || *rest != '\0') {
        SAY("%s is no number up to %d\n", key, MAX_FRAME);
        return -EINVAL;
    }
    *(uint16_t *)number = (uint16_t)n;
    return 0;
}

static int make(struct rte_vdev_device *vdev, const struct rte_kvargs *arguments) {
    const char *interface = NULL;
    uint16_t most = 32, split = 0, queues = 1, lie = 0;
    if (rte_kvargs_process(arguments, "iface", keep_text, &interface) != 0 ||
        rte_kvargs_process(arguments, "most", keep_number, &most) != 0 ||
        rte_kvargs_process(arguments, "split", keep_number, &split) != 0 ||
        rte_kvargs_process(arguments, "queues", keep_number, &queues) != 0 ||
        rte_kvargs_process(arguments, "lie", keep_number, &lie) != 0)
        return -EINVAL;
    if (interface == NULL || most == 0 || queues == 0 || queues > QUEUES) {
        SAY("iface=NAME is missing, most is 0, or queues are not 1 to %d\n", QUEUES);
        return -EINVAL;
    }
    const int fd = open_tap(interface);
    if (fd < 0) {
        SAY("cannot make the TAP interface %s: %s\n", interface, strerror(-fd));
        return fd;
    }
    struct rte_eth_dev *dev = rte_eth_vdev_allocate(vdev, sizeof(struct device));
    if (dev == NULL) {
        close(fd);
        return -ENOMEM;
    }
    struct device *d = dev->data->dev_private;
    d->fd = fd;
    d->port = dev->data->port_id;
    d->most = most;
    d->split = split;
    d->queues = queues;
    d->lie = lie != 0;
    rte_spinlock_init(&d->lock);
    TAILQ_INIT(&d->rules);
    for (uint16_t n = 0; n < QUEUES; n++) d->queue[n].device = d;
    rte_eth_random_addr(d->mac.addr_bytes);
    dev->data->mac_addrs = &d->mac;
    dev->data->dev_link = (struct rte_eth_link){
        .link_speed = RTE_ETH_SPEED_NUM_10G,
        .link_duplex = RTE_ETH_LINK_FULL_DUPLEX,
    };
    dev->dev_ops = &ops;
    dev->rx_pkt_burst = receive;
    dev->tx_pkt_burst = transmit;
    rte_eth_dev_probing_finish(dev);
    return 0;
}

static int probe(struct rte_vdev_device *vdev) {
    static const char *const known[] = {"iface", "most", "split", "queues", "lie", NULL};
    if (rte_eal_process_type() != RTE_PROC_PRIMARY) return -ENOTSUP;
    struct rte_kvargs *arguments = rte_kvargs_parse(rte_vdev_device_args(vdev), known);
    if (arguments == NULL) return -EINVAL;
    const int result = make(vdev, arguments);
    rte_kvargs_free(arguments);
    return result;
}

static int vanish(struct rte_vdev_device *vdev) {
    struct rte_eth_dev *dev = rte_eth_dev_allocated(rte_vdev_device_name(vdev));
    return dev == NULL ? 0 : rte_eth_dev_close(dev->data->port_id);
}

static struct rte_vdev_driver driver = {.probe = probe, .remove = vanish};

RTE_PMD_REGISTER_VDEV(net_shunttest, driver);
RTE_PMD_REGISTER_PARAM_STRING(net_shunttest, "iface=<name> most=<int> split=<int> queues=<int> lie=0|1");
