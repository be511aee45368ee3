//! A NAT router's rules, for nft. The router has the host on `lan0` and the network on `wan0`.
//!
//! All kinds but the symmetric one keep the port (Linux does when it is free, and with one host inside it always
//! is). Cone NATs note in a set what the host has sent from, and send what comes for it inside. What comes
//! unasked is dropped before conntrack confirms it, else the host's own packet to the same peer would be mapped
//! to another port, and no hole could be punched.

use std::net::Ipv4Addr;

use crate::plan::nat::Nat;

/// How long a mapping without traffic lives: the least that RFC 4787 asks for.
const MAPPING_S: u32 = 120;
/// Most mappings of a router.
const MAPPINGS: u32 = 65_536;

/// The rules of a router of this kind; `None` for no NAT.
pub fn rules(nat: Nat, inside: Ipv4Addr, outside: Ipv4Addr) -> Option<String> {
    // What opens the way in, apart from answers: type, match on the way in, note on the way out.
    let door = match nat {
        Nat::None => return None,
        Nat::FullCone => Some(("", "", "")),
        Nat::AddressRestricted => Some((" . ipv4_addr", " . ip saddr", " . ip daddr")),
        Nat::PortRestricted | Nat::Symmetric => None,
    };
    let source = match nat {
        Nat::Symmetric => "masquerade fully-random".to_owned(),
        _ => format!("snat to {outside}"),
    };
    let (set, incoming, outgoing) = door.map_or_else(Default::default, |(types, from, to)| {
        (
            format!(
                "set open {{ type inet_proto . inet_service{types}; flags dynamic,timeout; \
                 timeout {MAPPING_S}s; size {MAPPINGS}; }}"
            ),
            format!("iifname wan0 meta l4proto . th dport{from} @open dnat to {inside}"),
            format!(
                "iifname lan0 oifname wan0 meta l4proto {{ tcp, udp }} \
                 update @open {{ meta l4proto . th sport{to} }}"
            ),
        )
    });
    Some(format!(
        "table ip nat {{
            {set}
            chain incoming {{
                type nat hook prerouting priority dstnat
                {incoming}
            }}
            chain outgoing {{
                type nat hook postrouting priority srcnat
                oifname wan0 {source}
            }}
            chain self {{
                type filter hook input priority filter
                iifname wan0 ct state != {{ established, related }} drop
            }}
            chain through {{
                type filter hook forward priority filter
                {outgoing}
                iifname wan0 ct status & dnat != dnat ct state != {{ established, related }} drop
            }}
        }}\n"
    ))
}
