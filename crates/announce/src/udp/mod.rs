//! The UDP tracker protocol (BEP 15, BEP 41), IPv4 and IPv6, from packet to packet.
//!
//! Nothing is kept between packets but what the swarms keep.

pub mod connection_id;
pub mod packet;
pub mod respond;
