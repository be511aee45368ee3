//! A network of up to 250 hosts on one Linux machine: a namespace for each, a TUN device from each into an
//! emulator in user space, which gives every host an access line and every pair a delay, jitter and loss.
//! For tests and benchmarks; needs root.
//!
//! [`model`] and [`plan`] are pure: what happens to packets, and what a lab is to be. [`lab`] makes it real with
//! namespaces, TUN devices, nft and a thread that moves packets.

#[cfg(target_os = "linux")]
pub mod lab;
pub mod model;
pub mod plan;
#[cfg(target_os = "linux")]
pub mod probe;
#[cfg(target_os = "linux")]
pub mod stranger;
