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
 *   lie=1        it offers offloads that it has not, says of every other received packet that its
 *                checksums are wrong, of the rest that they are right, and leaves marks for
 *                transmission on all of them
 *
 * It is strict in turn: a port that is configured with an offload does not start, and a packet that
 * asks for one, or has several segments, is not sent but counted as a transmit error. One queue.
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
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <ethdev_driver.h>
#include <ethdev_vdev.h>
#include <rte_ether.h>
#include <rte_kvargs.h>
#include <rte_log.h>
#include <rte_mbuf.h>

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

struct device {
    int fd;
    uint16_t port;
    uint16_t most;
    uint16_t split;
    bool lie;
    struct rte_ether_addr mac;
    struct rte_mempool *pool;
    /* The segments that the next frame is read into; the second only with `split`. */
    struct rte_mbuf *first, *second;
    struct counters rx, tx;
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

static uint16_t receive(void *queue, struct rte_mbuf **packets, uint16_t n) {
    struct device *d = queue;
    uint64_t bytes = 0;
    uint16_t got = 0;
    for (n = RTE_MIN(n, d->most); got < n; got++) {
        if (!has_segments(d)) {
            add(&d->rx.no_mbuf, 1);
            break;
        }
        struct iovec parts[2] = {
            {rte_pktmbuf_mtod(d->first, void *), d->split != 0 ? d->split : MAX_FRAME},
        };
        if (d->second != NULL)
            parts[1] = (struct iovec){rte_pktmbuf_mtod(d->second, void *), MAX_FRAME};
        const ssize_t len = readv(d->fd, parts, d->second != NULL ? 2 : 1);
        if (len <= 0) break;

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
        if (d->lie) tell_lies(m, d->rx.packets + got);
        bytes += m->pkt_len;
        packets[got] = m;
    }
    add(&d->rx.packets, got);
    add(&d->rx.bytes, bytes);
    return got;
}

static uint16_t transmit(void *queue, struct rte_mbuf **packets, uint16_t n) {
    struct device *d = queue;
    uint64_t sent = 0, bytes = 0;
    uint16_t taken = 0;
    for (n = RTE_MIN(n, d->most); taken < n; taken++) {
        struct rte_mbuf *m = packets[taken];
        const bool plain = m->nb_segs == 1 && m->next == NULL && m->pkt_len == m->data_len &&
                           (m->ol_flags & RTE_MBUF_F_TX_OFFLOAD_MASK) == 0;
        if (!plain && d->tx.errors == 0) {
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
        add(&d->tx.errors, 1);
        rte_pktmbuf_free(m);
    }
    add(&d->tx.packets, sent);
    add(&d->tx.bytes, bytes);
    return taken;
}

/* Control */

static int configure(struct rte_eth_dev *dev) {
    const struct rte_eth_conf *conf = &dev->data->dev_conf;
    if ((conf->rxmode.offloads | conf->txmode.offloads) == 0) return 0;
    SAY("asked for offloads that it only pretends to have: %#" PRIx64 ", %#" PRIx64 "\n",
        conf->rxmode.offloads, conf->txmode.offloads);
    return -EINVAL;
}

static int describe(struct rte_eth_dev *dev, struct rte_eth_dev_info *info) {
    const struct device *d = dev->data->dev_private;
    info->max_mac_addrs = 1;
    info->max_rx_queues = 1;
    info->max_tx_queues = 1;
    info->max_mtu = MAX_MTU;
    info->max_rx_pktlen = MAX_FRAME;
    if (d->lie) {
        info->rx_offload_capa = RX_LIES;
        info->tx_offload_capa = TX_LIES;
        info->flow_type_rss_offloads = RTE_ETH_RSS_IP;
    }
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
    dev->data->rx_queues[queue] = d;
    return 0;
}

static int set_up_tx(struct rte_eth_dev *dev, uint16_t queue, uint16_t descriptors,
                     unsigned int socket, const struct rte_eth_txconf *conf) {
    (void)descriptors, (void)socket, (void)conf;
    dev->data->tx_queues[queue] = dev->data->dev_private;
    return 0;
}

static void release_rx(struct rte_eth_dev *dev, uint16_t queue) {
    struct device *d = dev->data->rx_queues[queue];
    if (d == NULL) return;
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
    stats->ipackets = count(&d->rx.packets);
    stats->ibytes = count(&d->rx.bytes);
    stats->rx_nombuf = count(&d->rx.no_mbuf);
    stats->opackets = count(&d->tx.packets);
    stats->obytes = count(&d->tx.bytes);
    stats->oerrors = count(&d->tx.errors);
    return 0;
}

static int end(struct rte_eth_dev *dev) {
    struct device *d = dev->data->dev_private;
    close(d->fd);
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
    uint16_t most = 32, split = 0, lie = 0;
    if (rte_kvargs_process(arguments, "iface", keep_text, &interface) != 0 ||
        rte_kvargs_process(arguments, "most", keep_number, &most) != 0 ||
        rte_kvargs_process(arguments, "split", keep_number, &split) != 0 ||
        rte_kvargs_process(arguments, "lie", keep_number, &lie) != 0)
        return -EINVAL;
    if (interface == NULL || most == 0) {
        SAY("iface=NAME is missing, or most is 0\n");
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
    d->lie = lie != 0;
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
    static const char *const known[] = {"iface", "most", "split", "lie", NULL};
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
RTE_PMD_REGISTER_PARAM_STRING(net_shunttest, "iface=<name> most=<int> split=<int> lie=0|1");
