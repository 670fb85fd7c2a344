// Strips the outer header of an IP-in-IP packet, as an ipip or ip6tnl device would.
//
// For the ingress of a TUN real server's interface, where the kernel has no such device:
//   tc filter add dev eth0 ingress prio 2 bpf direct-action object-file decap.o section tc
// IPv4 in IPv4 (protocol 4, RFC 2003) and IPv6 in IPv6 (next header 41, RFC 2473); the inner packet,
// to the VIP on the real server's loopback, goes on up the stack. Everything else passes as it is.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

static long (*adjust_room)(struct __sk_buff *skb, int difference, unsigned mode,
                           unsigned long long flags) = (void *)BPF_FUNC_skb_adjust_room;

static long (*pull_data)(struct __sk_buff *skb, unsigned len) = (void *)BPF_FUNC_skb_pull_data;

__attribute__((section("tc"), used)) int decap(struct __sk_buff *skb)
{
    // A frame from an AF_PACKET ring lies in pages behind the part that may be read here. (Too
    // short for it all: what there is, the checks below tell.)
    pull_data(skb, sizeof(struct ethhdr) + sizeof(struct ipv6hdr));
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ethhdr *eth = data;
    int outer;

    if (data + sizeof *eth > end)
        return TC_ACT_UNSPEC;
    if (eth->h_proto == __builtin_bswap16(ETH_P_IP)) {
        struct iphdr *ip = data + sizeof *eth;
        if ((void *)(ip + 1) > end || ip->protocol != 4)
            return TC_ACT_UNSPEC;
        outer = ip->ihl * 4;
    } else if (eth->h_proto == __builtin_bswap16(ETH_P_IPV6)) {
        struct ipv6hdr *ip = data + sizeof *eth;
        if ((void *)(ip + 1) > end || ip->nexthdr != 41)
            return TC_ACT_UNSPEC;
        outer = sizeof *ip;
    } else {
        return TC_ACT_UNSPEC;
    }
    return adjust_room(skb, -outer, BPF_ADJ_ROOM_MAC, 0) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

__attribute__((section("license"), used)) char licence[] = "Apache-2.0";
