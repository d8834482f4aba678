//! Where the hosts are, and which ports are one and the same.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;

use super::draft::{Draft, Entry, Sent};
use super::host_name::is_group;
use super::report::{Diagnostic, quoted};
use super::tree::Location;
use crate::destination::Destination;
use crate::spec::{Cluster, Host, Port, Role, host_port};

/// Looks the hosts of `draft` up and makes it a cluster, unless two of its ports are the same.
///
/// A name that has addresses of both families is bound on an IPv4 one, which every player can reach; of several on the
/// smallest: resolvers give them in another order each time.
pub(super) fn settle(
    draft: Draft,
    resolve: &dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
) -> Result<Cluster, Vec<Diagnostic>> {
    let mut lookup = Lookup { resolve, known: HashMap::new(), found: Vec::new() };
    let mut ports: Vec<Settled> = Vec::new();
    for entry in draft.origins.iter().chain(&draft.edges) {
        let Some(addresses) = lookup.addresses(entry) else { continue };
        let v4 = addresses.iter().filter(|a| a.is_ipv4()).min();
        let Some(address) = v4.or_else(|| addresses.iter().min()) else { continue };
        for (port, place) in &entry.ports {
            let port = Port {
                role: entry.role,
                host: Host { name: entry.host.clone(), address: *address },
                port: *port,
                listen: entry.listen.unwrap_or(*address),
                options: entry.options.clone(),
            };
            let settled = Settled { port, place: *place, addresses: addresses.clone() };
            if let Some((other, address)) = ports.iter().find_map(|o| Some((o, o.shared(&settled)?))) {
                lookup.found.push(settled.same_as(other, address));
            } else if let Some(other) = ports.iter().find(|other| other.is_in_the_way_of(&settled)) {
                lookup.found.push(settled.bound_as(other));
            }
            ports.push(settled);
        }
    }
    let ssh = ways(&draft, &mut lookup.found);
    lookup.found.extend(loops(&draft.forward, &ports));
    if !lookup.found.is_empty() {
        return Err(lookup.found);
    }
    let (origins, edges) = ports.into_iter().map(|s| s.port).partition(|p| p.role == Role::Origin);
    let forward = draft.forward.into_iter().map(|sent| sent.outbound).collect();
    let encoder = draft.encoder;
    Ok(Cluster { name: draft.name, origins, edges, elsewhere: Vec::new(), ssh, encoder, forward })
}

/// Targets that are ports of the cluster itself: a stream would come back, or come from two sides. Their names are not looked up, which
/// is done at each connect.
fn loops(forward: &[Sent], ports: &[Settled]) -> Vec<Diagnostic> {
    let of = |sent: &Sent| {
        let (host, port) = (sent.outbound.to.host(), sent.outbound.to.port());
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let is_it = |it: &&Settled| {
            let is_host = it.port.host.name.eq_ignore_ascii_case(host)
                || address
                    .is_some_and(|address| it.addresses.contains(&address) || it.port.listen == address);
            it.port.port == port && is_host
        };
        let own = ports.iter().find(is_it)?;
        let message = format!("`forward` sends to {}, the {} of this cluster", own.port, own.port.role);
        let help = "the origin sends to each edge by itself: name a server outside, or remove the target";
        Some(sent.place.diagnostic(message).related("it is written here", own.place.used).help(help))
    };
    forward.iter().filter_map(of).collect()
}

/// How to get to each host that says so; a host may be an entry several times, and say it once.
fn ways(draft: &Draft, found: &mut Vec<Diagnostic>) -> BTreeMap<String, Destination> {
    let mut ways: BTreeMap<String, (&Destination, Location)> = BTreeMap::new();
    for entry in draft.origins.iter().chain(&draft.edges) {
        let Some((way, place)) = &entry.ssh else { continue };
        match ways.get(&entry.host) {
            Some((first, first_place)) if *first != way => {
                let message = format!("{} is reached in two ways: {first} and {way}", entry.host);
                let diagnostic = place.diagnostic(message).related("first written here", first_place.used);
                found.push(diagnostic.help("a host has one `ssh`, wherever it is written"));
            }
            Some(_) => {}
            None => {
                ways.insert(entry.host.clone(), (way, *place));
            }
        }
    }
    ways.into_iter().map(|(host, (way, _))| (host, way.clone())).collect()
}

struct Settled {
    port: Port,
    place: Location,
    addresses: Vec<IpAddr>,
}

impl Settled {
    /// The address that makes `self` and `other` the same port, if they are.
    fn shared(&self, other: &Self) -> Option<IpAddr> {
        if self.port.port != other.port.port {
            return None;
        }
        self.addresses.iter().find(|a| other.addresses.contains(a)).copied()
    }

    /// Whether only one of the two can be bound.
    fn is_in_the_way_of(&self, other: &Self) -> bool {
        let (a, b) = (self.port.listen.to_canonical(), other.port.listen.to_canonical());
        // `::` takes IPv4 too.
        let takes = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
        self.port.port == other.port.port && (a == b || takes(a, b) || takes(b, a))
    }

    fn bound_as(&self, first: &Self) -> Diagnostic {
        let listen = |it: &Self| host_port(&it.port.listen.to_string(), it.port.port);
        let message = format!(
            "{} and {} cannot both be bound: one listens on {}, the other on {}",
            self.port,
            first.port,
            listen(self),
            listen(first),
        );
        Diagnostic::new(self.place.used, message)
            .related("the other is written here", first.place.used)
            .help("give one of the two another port, or a `listen` of its own")
    }

    fn same_as(&self, first: &Self, address: IpAddr) -> Diagnostic {
        let (name, first_name) = (self.port.to_string(), first.port.to_string());
        let is_origin = first.port.role != self.port.role;
        let message = match (is_origin, name == first_name) {
            (true, true) => format!("the edge {name} is the origin"),
            (true, false) => format!(
                "the edge {name} is the origin, {first_name}: both are {}",
                host_port(&address.to_string(), first.port.port)
            ),
            (false, true) => format!("{name} is written twice"),
            (false, false) => format!(
                "{name} and {first_name} are the same port: both are {}",
                host_port(&address.to_string(), first.port.port)
            ),
        };
        let (label, help) = if is_origin {
            ("the origin is written here", "give the edge a host or a port of its own")
        } else {
            ("first written here", "remove one of the two, or change its host or port")
        };
        Diagnostic::new(self.place.used, message).related(label, first.place.used).help(help)
    }
}

struct Lookup<'a> {
    resolve: &'a dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
    /// By lower-case name; `None` was reported.
    known: HashMap<String, Option<Vec<IpAddr>>>,
    found: Vec<Diagnostic>,
}

impl Lookup<'_> {
    fn addresses(&mut self, entry: &Entry) -> Option<Vec<IpAddr>> {
        if let Ok(address) = entry.host.parse::<IpAddr>() {
            return Some(vec![address.to_canonical()]);
        }
        let name = entry.host.to_ascii_lowercase();
        if let Some(known) = self.known.get(&name) {
            return known.clone();
        }
        let outcome = match (self.resolve)(&entry.host) {
            Ok(addresses) => {
                let usable = |a: &IpAddr| !a.is_unspecified() && !is_group(*a);
                let addresses: Vec<_> = addresses.iter().map(IpAddr::to_canonical).filter(usable).collect();
                if addresses.is_empty() {
                    Err("the name stands for no address of a server".to_owned())
                } else {
                    Ok(addresses)
                }
            }
            Err(e) => Err(e.to_string()),
        };
        let addresses = outcome
            .map_err(|cause| {
                let message = format!("the host {} has no address", quoted(&entry.host));
                let help = "is the name spelt right, and known to DNS or in /etc/hosts here?";
                self.found.push(entry.host_place.diagnostic(message).cause(cause).help(help));
            })
            .ok();
        self.known.insert(name, addresses.clone());
        addresses
    }
}
