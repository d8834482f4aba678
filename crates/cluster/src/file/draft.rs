//! What [`check`](super::check) makes of a file and [`hosts`](super::hosts) makes a cluster of.

use std::net::IpAddr;

use super::tree::Location;
use crate::destination::Destination;
use crate::forward::Outbound;
use crate::spec::{Encoder, Role, WorkerOptions};

/// A cluster whose every value is sound by itself; host names are not looked up yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) origins: Vec<Entry>,
    pub(super) edges: Vec<Entry>,
    pub(super) encoder: Option<Encoder>,
    pub(super) forward: Vec<Sent>,
}

/// A target beyond the edges, and where its address is written.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) outbound: Outbound,
    pub(super) place: Location,
}

/// An origin, or one entry of the edges.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) role: Role,
    pub(super) host: String,
    pub(super) host_place: Location,
    pub(super) ports: Vec<(u16, Location)>,
    pub(super) listen: Option<IpAddr>,
    pub(super) ssh: Option<(Destination, Location)>,
    pub(super) options: WorkerOptions,
}
