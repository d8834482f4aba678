//! A loopback network for each test: the guide's ports on addresses that no other test uses.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::getuid;

/// 127.A.B.0/24, held until dropped.
pub struct Net {
    a: u8,
    b: u8,
    _lock: File,
}

impl Net {
    /// A network that no other test, of this process or of another, holds.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // The lock files stay: removing one while another process locks it would give the network away twice.
        let dir = std::env::temp_dir().join(format!("srsctl-test-net-{}", getuid()));
        fs::create_dir_all(&dir).unwrap();
        for _ in 0..10_000 {
            let n = process::id().wrapping_mul(7919).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            // 127.0.0.0/16 is everybody's; 127.255.x is left out for its broadcast address.
            let (a, b) = ((n % 254 + 1) as u8, (n / 254 % 256) as u8);
            let lock = File::create(dir.join(format!("127.{a}.{b}"))).unwrap();
            if lock.try_lock().is_ok() {
                return Self { a, b, _lock: lock };
            }
        }
        panic!("no free network in {}", dir.display());
    }

    /// An address of this network.
    pub fn host(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.a, self.b, last)
    }

    /// The guide's origin, .5:1935.
    pub fn origin(&self) -> SocketAddr {
        SocketAddr::from((self.host(5), 1935))
    }

    /// The guide's four edge ports: .6 and .7, 1935 and 1936.
    pub fn edges(&self) -> [SocketAddr; 4] {
        [(6, 1935), (6, 1936), (7, 1935), (7, 1936)].map(|(h, p)| SocketAddr::from((self.host(h), p)))
    }

    /// The guide's cluster on this network.
    pub fn guide(&self) -> String {
        self.guide_with("{ max_connections: 200, gop_cache: true }")
    }

    /// The guide's cluster with these worker options.
    pub fn guide_with(&self, options: &str) -> String {
        let [origin, one, two] = [5, 6, 7].map(|n| self.host(n));
        format!(
            "cluster: t{}-{}\norigin: {{ host: {origin}, port: 1935 }}\nedges:\n  - {{ host: {one}, ports: [1935, 1936] }}\n  - {{ host: {two}, ports: [1935, 1936] }}\nworker: {options}\n",
            self.a, self.b
        )
    }

    /// Name of the cluster of [`Net::guide`].
    pub fn cluster_name(&self) -> String {
        format!("t{}-{}", self.a, self.b)
    }
}

/// Who is connected to `addr`, as the kernel tells.
pub fn peers(addr: SocketAddr) -> BTreeSet<SocketAddr> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let is_established = |fields: &[&str]| fields[3] == "01";
    let rows = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let established = rows.filter(|fields| is_established(fields));
    established.filter(|fields| parse(fields[1]) == addr).map(|fields| parse(fields[2])).collect()
}

/// An address as /proc/net/tcp writes it.
fn parse(address: &str) -> SocketAddr {
    let (host, port) = address.split_once(':').unwrap();
    // The four bytes of the host, printed as the number that they are in the memory of this machine.
    let host = u32::from_str_radix(host, 16).unwrap().to_ne_bytes();
    (Ipv4Addr::from(host), u16::from_str_radix(port, 16).unwrap()).into()
}

/// `rtmp://host:port/app/stream`.
pub fn url(addr: SocketAddr, stream: &str) -> String {
    format!("rtmp://{addr}/{stream}")
}
