//! The machines of a cluster: where a supervisor runs for it, and how an operator gets there.

use std::fmt;

use crate::destination::Destination;
use crate::spec::{Cluster, Port};

/// One place where srsctl runs a supervisor for the cluster: all hosts that an operator gets to in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How to get there; `None`: it is the machine that one is on.
    pub way: Option<Destination>,
    /// The names of its hosts, in the file's order; at least one.
    pub hosts: Vec<String>,
}

/// The first of its hosts.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hosts.first().map_or("", |host| host))
    }
}

impl Cluster {
    /// The machines of a whole cluster, in the file's order, that of the origin first. A port that `is_here` is on the machine that one
    /// is on, unless its host says how to get there.
    #[must_use]
    pub fn machines(&self, is_here: impl Fn(&Port) -> bool) -> Vec<Machine> {
        let mut machines: Vec<Machine> = Vec::new();
        for port in self.ports().chain(&self.elsewhere) {
            let name = &port.host.name;
            if machines.iter().any(|machine| machine.hosts.contains(name)) {
                continue;
            }
            let way = match self.ssh.get(name) {
                Some(way) => Some(way.clone()),
                None if is_here(port) => None,
                None => Some(Destination { user: None, host: name.clone(), port: None }),
            };
            match machines.iter_mut().find(|machine| machine.way == way) {
                Some(machine) => machine.hosts.push(name.clone()),
                None => machines.push(Machine { way, hosts: vec![name.clone()] }),
            }
        }
        machines
    }

    /// The cluster as the machine of these hosts sees it: what is on others is [elsewhere](Self::elsewhere). Without any, all is there.
    #[must_use]
    pub fn only(mut self, hosts: &[String]) -> Self {
        if hosts.is_empty() {
            return self;
        }
        let is_here = |port: &Port| hosts.contains(&port.host.name);
        let (origins, elsewhere) = std::mem::take(&mut self.origins).into_iter().partition(is_here);
        let (edges, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.edges).into_iter().partition(is_here);
        (self.origins, self.edges) = (origins, edges);
        self.elsewhere.splice(0..0, Vec::into_iter(elsewhere).chain(others));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::ClusterFile;
    use crate::spec::Role;

    const GUIDE: &str = "cluster: live\norigin: { host: 192.168.1.5 }\nedges:\n  - { host: 192.168.1.6, ports: [1935, 1936] }\n  \
                         - { host: 192.168.1.7, ports: [1935, 1936] }\nencoder: { source: test-card, stream: live/a }\n";

    fn read(text: &str) -> Cluster {
        ClusterFile::new("c.yaml".into(), text.into()).cluster(&|_| unreachable!()).unwrap()
    }

    fn told(machines: &[Machine]) -> Vec<String> {
        let tell = |machine: &Machine| {
            let way = machine.way.as_ref().map_or_else(|| "here".to_owned(), ToString::to_string);
            format!("{way}: {}", machine.hosts.join(" "))
        };
        machines.iter().map(tell).collect()
    }

    #[test]
    fn hosts_that_are_reached_in_the_same_way_are_one_machine() {
        let cluster = read(GUIDE);
        let here = |port: &Port| port.host.name.ends_with(".6");
        assert_eq!(
            told(&cluster.machines(here)),
            ["192.168.1.5: 192.168.1.5", "here: 192.168.1.6", "192.168.1.7: 192.168.1.7"]
        );
        assert_eq!(told(&cluster.machines(|_| true)), ["here: 192.168.1.5 192.168.1.6 192.168.1.7"]);
        let text = GUIDE
            .replace(".5 }", ".5, ssh: 'me@box:2222' }")
            .replace("host: 192.168.1.7,", "host: 192.168.1.7, ssh: 'me@box:2222',");
        assert_eq!(
            told(&read(&text).machines(here)),
            ["me@box:2222: 192.168.1.5 192.168.1.7", "here: 192.168.1.6"]
        );
        assert_eq!(told(&read(&text).machines(|_| true))[0], "me@box:2222: 192.168.1.5 192.168.1.7");
    }

    #[test]
    fn a_machine_has_its_own_ports_and_knows_those_of_others() {
        let whole = read(GUIDE);
        assert_eq!(whole.clone().only(&[]), whole);
        let origin = whole.clone().only(&["192.168.1.5".into()]);
        assert_eq!((origin.origins.len(), origin.edges.len(), origin.elsewhere.len()), (1, 0, 4));
        let targets = origin.targets();
        assert_eq!(targets.len(), 4);
        assert!(targets.iter().all(|target| target.address.is_none()), "they are looked up at each connect");
        assert!(origin.encoder_spec().is_some(), "the encoder runs beside the origin");

        let edge = whole.clone().only(&["192.168.1.6".into()]);
        assert_eq!(
            edge.ports().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.168.1.6:1935", "192.168.1.6:1936"]
        );
        assert_eq!(edge.elsewhere.first().map(|port| port.role), Some(Role::Origin));
        assert!(edge.encoder_spec().is_none());
        let spec = edge.worker_spec(&edge.edges[0], "/s".into());
        assert_eq!(spec.sources, ["192.168.1.5".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(spec.options.memory, crate::Memory::Auto(2), "a share of its own machine");

        let both = whole.only(&["192.168.1.5".into(), "192.168.1.7".into()]);
        let local = both.targets().iter().filter(|target| target.address.is_some()).count();
        assert_eq!((both.targets().len(), local), (4, 2));
    }
}
