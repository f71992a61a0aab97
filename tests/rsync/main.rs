//! The command lines against a real rsync: to a local path, to a daemon's module on the loopback
//! address, and through a stand-in for a remote shell.

mod fake;
mod fixture;
mod histories;
mod passes;
mod targets;
