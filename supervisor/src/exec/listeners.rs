//! RTMP listeners: bound and owned by the supervisor, lent to its processes, so that a process that dies never closes
//! its port: players queue until the next one accepts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use cluster::{Cluster, Port, UnitId};
use control::fds;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::exec::strays;
use crate::host::owner::{self, Kin, Owner};

/// Why a port cannot be served here.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Neither 127/8, ::1 nor an address of an interface.
    #[error("{unit}: {host} is not this machine{}; srsctl runs the ports of this machine alone: name one of its addresses ({here})", as_address(.host, .address))]
    NotLocal {
        /// The port's worker.
        unit: UnitId,
        /// As written.
        host: String,
        /// What it stands for.
        address: IpAddr,
        /// The addresses there are.
        here: String,
    },
    /// Another socket has the address.
    #[error("{unit}: {address} is taken by {}, or choose another port", owner_text(.owner.as_ref(), .address.port()))]
    Taken {
        /// The port's worker.
        unit: UnitId,
        /// What was to be bound.
        address: SocketAddr,
        /// Who has it, as far as can be seen.
        owner: Option<Owner>,
    },
    /// A port below 1024 without the right to it.
    #[error("{unit}: this user may not bind port {}; choose a port from 1024 on, or run srsctl as root", .address.port())]
    Privileged {
        /// The port's worker.
        unit: UnitId,
        /// What was to be bound.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{unit}: cannot listen on {address}: {source}")]
    Other {
        /// The port's worker.
        unit: UnitId,
        /// What was to be bound.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

fn as_address(host: &str, address: &IpAddr) -> String {
    if host == address.to_string() { String::new() } else { format!(" ({address})") }
}

fn owner_text(owner: Option<&Owner>, port: u16) -> String {
    owner.map_or_else(
        || {
            format!(
                "another program (this user cannot see which; try: sudo ss -ltnp 'sport = :{port}'); stop it"
            )
        },
        |Owner { pid, name, kin }| match kin {
            Kin::Worker(cluster) => {
                format!("a worker (pid {pid}) of cluster {cluster}; stop it with: srsctl down {cluster}")
            }
            Kin::Supervisor(file) => format!("the cluster of {file}; stop it with: srsctl -f {file} down"),
            Kin::Stranger => format!("{name} (pid {pid}); stop that program"),
        },
    )
}

/// The addresses of this machine.
#[derive(Clone, Debug)]
pub(crate) struct LocalAddresses(Vec<IpAddr>);

impl LocalAddresses {
    /// Of all interfaces now.
    #[must_use]
    pub(crate) fn read() -> Self {
        let interfaces = nix::ifaddrs::getifaddrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        let addresses = interfaces.into_iter().filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        Self(addresses.collect())
    }

    /// All of 127/8, ::1, and what an interface has.
    #[must_use]
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.0.contains(&address)
    }

    /// Whether `port` can be served here.
    ///
    /// # Errors
    /// [`ListenError::NotLocal`].
    pub(crate) fn check(&self, port: &Port) -> Result<(), ListenError> {
        // Bound to all addresses, only `host` tells which machine is meant.
        let address = port.source_address();
        if self.contains(address) {
            return Ok(());
        }
        let here =
            self.0.iter().filter(|a| a.is_ipv4()).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(ListenError::NotLocal {
            unit: port.id(),
            host: port.host.name.clone(),
            address,
            here: if here.is_empty() { "127.0.0.1".to_owned() } else { here },
        })
    }
}

/// The listeners of a cluster's ports among those that were kept, and the names of the others, which are closed.
pub(crate) fn sort(
    kept: Vec<(String, OwnedFd)>,
    cluster: &Cluster,
) -> (BTreeMap<UnitId, OwnedFd>, Vec<String>) {
    let (mut listeners, mut strange) = (BTreeMap::new(), Vec::new());
    for (name, listener) in kept {
        let is_listener = fds::is_tcp_listener(&listener);
        match cluster.ports().find(|port| is_listener && is_bound_to(&listener, port)) {
            Some(port) => drop(listeners.insert(port.id(), listener)),
            None => strange.push(name),
        }
    }
    (listeners, strange)
}

/// Binds the listeners of `ports`: all, or none.
///
/// # Errors
/// One for each port that cannot be bound.
pub(crate) fn bind_all<'a>(
    ports: impl IntoIterator<Item = &'a Port>,
) -> Result<BTreeMap<UnitId, OwnedFd>, Vec<ListenError>> {
    let (mut bound, mut errors) = (BTreeMap::new(), Vec::new());
    for port in ports {
        match bind(port) {
            Ok(listener) => {
                bound.insert(port.id(), listener);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(errors) }
}

/// Binds one listener: `SO_REUSEADDR`, close-on-exec, non-blocking.
///
/// # Errors
/// When it cannot be bound.
pub(crate) fn bind(port: &Port) -> Result<OwnedFd, ListenError> {
    let (unit, address) = (port.id(), port.listen_addr());
    try_bind(address, backlog()).map_err(|error| match error {
        Errno::ADDRINUSE => ListenError::Taken { unit, address, owner: owner_of(address) },
        Errno::ADDRNOTAVAIL => ListenError::NotLocal {
            unit,
            host: port.host.name.clone(),
            address: address.ip(),
            here: "see: ip address".to_owned(),
        },
        Errno::ACCESS if address.port() < 1024 => ListenError::Privileged { unit, address },
        other => ListenError::Other { unit, address, source: other.into() },
    })
}

/// Who has `address`; its supervisor may be gone, and its file may name the cluster anew since.
fn owner_of(address: SocketAddr) -> Option<Owner> {
    let owner = owner::listening_on(address)?;
    let worker = strays::all().find(|worker| worker.pid == owner.pid);
    let cluster = worker.and_then(|worker| Some(worker.lib().file_name()?.to_str()?.to_owned()));
    Some(match cluster {
        Some(cluster) => Owner { kin: Kin::Worker(cluster), ..owner },
        None => owner,
    })
}

fn try_bind(address: SocketAddr, backlog: i32) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// As many may queue as the kernel lets: when a worker dies they all come back at once, the origin among them, and a
/// connection that finds the queue full tries again only after a second.
fn backlog() -> i32 {
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    somaxconn.and_then(|text| text.trim().parse::<i32>().ok()).unwrap_or(4096).max(1)
}

/// Whether `listener` is the one of `port`, and not of some earlier cluster file.
#[must_use]
pub(crate) fn is_bound_to(listener: &OwnedFd, port: &Port) -> bool {
    bound_to(listener) == Some(port.listen_addr())
}

/// Where a listener is bound.
pub(crate) fn bound_to(listener: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(listener).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Host, Role, WorkerOptions};

    fn port(host: &str, number: u16) -> Port {
        Port {
            role: Role::Edge,
            host: Host { name: host.to_owned(), address: host.parse().unwrap() },
            port: number,
            listen: host.parse().unwrap(),
            options: WorkerOptions::default(),
        }
    }

    #[test]
    fn a_taken_port_names_the_program_and_its_pid() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(&port("127.0.0.1", other.local_addr().unwrap().port())).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    }

    #[test]
    fn one_port_that_is_taken_leaves_none_bound() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().port();
        let free = port("127.0.0.2", taken);
        let errors = bind_all([&free, &port("127.0.0.1", taken)]).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(matches!(&errors[0], ListenError::Taken { unit, .. } if unit.as_str().contains("127.0.0.1")));
        // A child that another test is just starting may hold a copy until it has called exec.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while let Err(error) = bind(&free) {
            assert!(std::time::Instant::now() < deadline, "{error}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_listener_accepts_before_any_worker_runs() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut wanted = port("127.0.0.3", other.local_addr().unwrap().port());
        wanted.options.max_connections = 1;
        let listener = bind(&wanted).unwrap();
        assert!(is_bound_to(&listener, &wanted));
        assert!(!is_bound_to(&listener, &port("127.0.0.4", wanted.port)));
        std::net::TcpStream::connect(wanted.listen_addr()).unwrap();
    }

    #[test]
    fn a_documentation_address_is_not_this_machine_and_loopback_always_is() {
        let here = LocalAddresses::read();
        for host in ["127.0.0.1", "127.9.8.7", "::1"] {
            here.check(&port(host, 1935)).unwrap();
        }
        let error = here.check(&port("203.0.113.7", 1935)).unwrap_err().to_string();
        assert!(error.contains("203.0.113.7 is not this machine;"), "{error}");
        let mut bound_to_all = port("203.0.113.7", 1935);
        bound_to_all.listen = IpAddr::from([0, 0, 0, 0]);
        assert!(here.check(&bound_to_all).is_err(), "listen does not hide that the host is another machine");
        let mut behind_nat = port("203.0.113.7", 1935);
        behind_nat.listen = IpAddr::from([127, 0, 0, 1]);
        here.check(&behind_nat).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_refused_by_name_when_bound() {
        let error = bind(&port("203.0.113.7", 1935)).unwrap_err();
        assert!(matches!(error, ListenError::NotLocal { .. }), "{error}");
    }

    #[test]
    fn a_privileged_port_is_said_to_be_one() {
        let error = ListenError::Privileged {
            unit: port("127.0.0.1", 80).id(),
            address: "127.0.0.1:80".parse().unwrap(),
        };
        assert!(error.to_string().contains("from 1024 on"), "{error}");
    }
}
