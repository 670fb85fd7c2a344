// 802.1Q on a plain interface, as a VLAN device would do it, where the kernel has none.
//
// Compiled with -DVID=n. At egress every frame gets the tag, at ingress only frames with it come in,
// without it:
//   tc filter add dev eth0 egress  prio 1 bpf direct-action object-file vlan.o section tag
//   tc filter add dev eth0 ingress prio 1 bpf direct-action object-file vlan.o section untag

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

static long (*vlan_push)(struct __sk_buff *skb, __be16 protocol, __u16 tci) =
    (void *)BPF_FUNC_skb_vlan_push;
static long (*vlan_pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;

__attribute__((section("tag"), used)) int push(struct __sk_buff *skb)
{
    return vlan_push(skb, __builtin_bswap16(ETH_P_8021Q), VID) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

__attribute__((section("untag"), used)) int pop(struct __sk_buff *skb)
{
    if (!skb->vlan_present || (skb->vlan_tci & 0xfff) != VID)
        return TC_ACT_SHOT;
    return vlan_pop(skb) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

__attribute__((section("license"), used)) char licence[] = "Apache-2.0";
