//! Which process listens on a port, as far as /proc permits to see.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A process, for a message to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub pid: u32,
    /// Its short name.
    pub name: String,
    /// Whether it is one of ours.
    pub kin: Kin,
}

/// What a process is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kin {
    /// Started as `srsctl agent FILE`, with this file.
    Supervisor(String),
    /// A worker of the cluster of this name.
    Worker(String),
    /// None of ours, as far as can be seen.
    Stranger,
}

/// Who keeps `address` from being bound.
///
/// `None`: nobody listens there any more, or /proc does not show whose socket it is.
#[must_use]
pub(crate) fn listening_on(address: SocketAddr) -> Option<Owner> {
    let inodes = inodes(address);
    if inodes.is_empty() {
        return None;
    }
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find_map(|pid: u32| {
        let mut links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        links
            .any(|link| {
                fs::read_link(link.path()).is_ok_and(|target| {
                    target.to_str().and_then(socket_inode).is_some_and(|inode| inodes.contains(&inode))
                })
            })
            .then(|| Owner {
                pid,
                name: crate::host::procfs::name(pid).unwrap_or_default(),
                kin: cluster_file(pid).map_or(Kin::Stranger, Kin::Supervisor),
            })
    })
}

/// Whether anybody listens at `address`.
#[must_use]
pub(crate) fn is_listened_to(address: SocketAddr) -> bool {
    !inodes(address).is_empty()
}

/// Of the sockets that listen there.
fn inodes(address: SocketAddr) -> Vec<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.iter().filter_map(|path| fs::read_to_string(path).ok());
    let listeners = tables.flat_map(|table| listeners(&table));
    listeners.filter(|(bound, _)| conflicts(*bound, address)).map(|(_, inode)| inode).collect()
}

/// The file that process `pid` supervises, if it was started as `srsctl agent FILE`.
fn cluster_file(pid: u32) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split('\0');
    let is_ours = words.next()?.rsplit('/').next() == Some("srsctl") && words.next() == Some("agent");
    words.next().filter(|_| is_ours).map(str::to_owned)
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A socket bound to all addresses is in the way of each.
fn conflicts(bound: SocketAddr, wanted: SocketAddr) -> bool {
    let (ours, theirs) = (wanted.ip().to_canonical(), bound.ip().to_canonical());
    let overlap = ours == theirs || ours.is_unspecified() || theirs.is_unspecified();
    overlap && bound.port() == wanted.port()
}

/// Listening sockets of a table as of proc_pid_net(5): address and inode.
fn listeners(table: &str) -> Vec<(SocketAddr, u64)> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            (*fields.get(3)? == LISTEN).then_some(())?;
            Some((parse_address(fields.get(1)?)?, fields.get(9)?.parse().ok()?))
        })
        .collect()
}

/// `0500007F:078F`: 32-bit words in the machine's byte order, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_table_gives_its_listening_sockets_alone() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0500007F:078F 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4711 1 0 100 0 0 10 0\n\
            1: 0500007F:0790 0600007F:1F90 01 00000000:00000000 00:00000000 00000000  0  0 4712 1 0 100 0 0 10 0\n\
            broken\n";
        assert_eq!(listeners(table), [(addr("127.0.0.5:1935"), 4711)]);
        assert_eq!(parse_address("00000000000000000000000001000000:078F"), Some(addr("[::1]:1935")));
        assert_eq!(parse_address("0500007F"), None);
        assert_eq!(parse_address("05:078F"), None);
    }

    #[test]
    fn a_socket_bound_to_all_addresses_is_in_the_way_of_each() {
        assert!(conflicts(addr("0.0.0.0:1935"), addr("127.0.0.5:1935")));
        assert!(conflicts(addr("[::]:1935"), addr("127.0.0.5:1935")));
        assert!(conflicts(addr("127.0.0.5:1935"), addr("0.0.0.0:1935")));
        assert!(!conflicts(addr("127.0.0.6:1935"), addr("127.0.0.5:1935")));
        assert!(!conflicts(addr("0.0.0.0:1936"), addr("127.0.0.5:1935")));
    }

    #[test]
    fn the_owner_of_a_listener_of_this_process_is_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = listening_on(listener.local_addr().unwrap()).unwrap();
        assert_eq!(owner.pid, std::process::id());
        assert!(!owner.name.is_empty());
    }
}
