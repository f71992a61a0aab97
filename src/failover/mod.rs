//! Failover of NFS clients between a primary server and its mirror, and back, without losing a
//! write.
//!
//! Both servers' trees carry a [`mark`](crate::role::mark): which role the server has, and since
//! which epoch. The epoch goes up with each switch. A mirror daemon reads its target's mark
//! before it sends anything ([`fence`](crate::role::fence)), so a primary that was away while its
//! backup took over cannot undo what the backup received.

pub(crate) mod child;
pub mod cli;
pub mod config;
pub mod control;
pub(crate) mod daemon;
pub mod front;
pub(crate) mod grace;
pub(crate) mod handover;
pub mod machine;
pub(crate) mod metrics;
pub(crate) mod mirror;
pub(crate) mod monitor;
pub(crate) mod mounts;
pub(crate) mod notify;
pub mod probe;
pub(crate) mod prober;
pub(crate) mod server;
pub mod stuck;
pub(crate) mod tool;
pub mod wire;
pub(crate) mod worker;
