//! What has to be done to turn one cluster into another, as data: nothing is touched by making a plan.

use std::fmt;

use cluster::{Cluster, Host, Memory, Port, UnitId};
use serde::{Deserialize, Serialize};

/// One step, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What is done.
    pub kind: Kind,
    /// To which process; none for the cluster as a whole.
    pub unit: Option<UnitId>,
    /// Why, for a person.
    pub reason: String,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Start the worker of an added edge port.
    Start,
    /// Give a running port its new forward targets, or its new share of the machine's memory; no connection is dropped.
    Configure,
    /// Cannot be done to a running cluster: it would take `down` and `up`.
    Refuse,
}

/// All steps from one cluster to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// In the order in which they are carried out.
    pub(crate) actions: Vec<Action>,
}

impl Plan {
    /// The steps that turn `current` into `new`. The order of edges is no difference.
    #[must_use]
    pub(crate) fn compare(current: &Cluster, new: &Cluster) -> Self {
        let mut actions = Vec::new();
        if current.name != new.name {
            actions.push(refuse(None, format!("cluster: {} → {}", current.name, new.name)));
        }
        for (origin, other) in current.origins.iter().zip(&new.origins) {
            compare_port(origin, other, &mut actions);
        }
        if current.origins.len() != new.origins.len() {
            let reason = format!("origins: {} → {}", current.origins.len(), new.origins.len());
            actions.push(refuse(None, reason));
        }
        for edge in &current.edges {
            match new.edges.iter().find(|other| same_place(edge, other)) {
                Some(other) => compare_port(edge, other, &mut actions),
                None => actions.push(refuse(Some(edge.id()), "removed from the file".to_owned())),
            }
        }
        if current.encoder != new.encoder {
            let reason = match (&current.encoder, &new.encoder) {
                (None, _) => "encoder: added",
                (_, None) => "encoder: removed",
                (Some(_), Some(_)) => "encoder: changed",
            };
            actions.push(refuse(Some(UnitId::encoder()), reason.to_owned()));
        }
        let added: Vec<&Port> = new
            .edges
            .iter()
            .filter(|edge| !current.edges.iter().any(|other| same_place(edge, other)))
            .collect();
        for edge in &added {
            actions.push(Action {
                kind: Kind::Start,
                unit: Some(edge.id()),
                reason: "added to the file".to_owned(),
            });
        }
        if !added.is_empty() {
            let targets = match added.len() {
                1 => "1 more forward target".to_owned(),
                more => format!("{more} more forward targets"),
            };
            actions.extend(new.origins.iter().map(|origin| Action {
                kind: Kind::Configure,
                unit: Some(origin.id()),
                reason: targets.clone(),
            }));
            let (before, now) = (current.ports().count(), new.ports().count());
            let shares = |edge: &&Port| matches!(edge.options.memory, Memory::Auto(_));
            let kept = current.edges.iter().filter(shares).map(Port::id);
            actions.extend(kept.map(|unit| Action {
                kind: Kind::Configure,
                unit: Some(unit),
                reason: format!("memory: a share for {before} ports → for {now}"),
            }));
        }
        Self { actions }
    }

    /// Nothing has to be done.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// The steps that cannot be done; if there are any, none is.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().filter(|action| action.kind == Kind::Refuse)
    }

    /// The ids of the processes to which `kind` is done.
    pub(crate) fn units(&self, kind: Kind) -> impl Iterator<Item = &UnitId> {
        self.actions
            .iter()
            .filter(move |action| action.kind == kind)
            .filter_map(|action| action.unit.as_ref())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            Kind::Start => "start",
            Kind::Configure => "configure",
            Kind::Refuse => "cannot change",
        };
        match &self.unit {
            Some(unit) => write!(f, "{verb} {unit}: {}", self.reason),
            None => write!(f, "{verb} {}", self.reason),
        }
    }
}

fn refuse(unit: Option<UnitId>, reason: String) -> Action {
    Action { kind: Kind::Refuse, unit, reason }
}

fn same_place(a: &Port, b: &Port) -> bool {
    (&a.host.name, a.port) == (&b.host.name, b.port)
}

fn compare_port(current: &Port, new: &Port, actions: &mut Vec<Action>) {
    // Destructured, so that a new field cannot be forgotten here.
    let Port { role: _, host: Host { name, address }, port, listen, options } = current;
    let mut differ = |what: &str, from: String, to: String| {
        if from != to {
            actions.push(refuse(Some(current.id()), format!("{what}: {from} → {to}")));
        }
    };
    differ("host", name.clone(), new.host.name.clone());
    differ("port", port.to_string(), new.port.to_string());
    differ("address of its host", address.to_string(), new.host.address.to_string());
    differ("listen", listen.to_string(), new.listen.to_string());
    let cluster::WorkerOptions {
        max_connections,
        max_streams,
        gop_cache,
        latency,
        queue_length,
        publish_firstpkt_timeout,
        publish_normal_timeout,
        end_of_stream,
        memory,
    } = options;
    differ("max_connections", max_connections.to_string(), new.options.max_connections.to_string());
    differ("max_streams", max_streams.to_string(), new.options.max_streams.to_string());
    differ("gop_cache", gop_cache.to_string(), new.options.gop_cache.to_string());
    differ("latency", latency.to_string(), new.options.latency.to_string());
    differ("memory", memory.to_string(), new.options.memory.to_string());
    differ("queue_length", queue_length.to_string(), new.options.queue_length.to_string());
    let (first, normal) = (new.options.publish_firstpkt_timeout, new.options.publish_normal_timeout);
    differ("publish_firstpkt_timeout", publish_firstpkt_timeout.to_string(), first.to_string());
    differ("publish_normal_timeout", publish_normal_timeout.to_string(), normal.to_string());
    differ("end_of_stream", end_of_stream.to_string(), new.options.end_of_stream.to_string());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use cluster::{Encoder, EncoderSource, Role, WorkerOptions};

    fn port(role: Role, host: &str, number: u16) -> Port {
        let address = host.parse().unwrap();
        Port {
            role,
            host: Host { name: host.into(), address },
            port: number,
            listen: address,
            options: WorkerOptions::default(),
        }
    }

    fn guide() -> Cluster {
        Cluster {
            name: "live".into(),
            origins: vec![port(Role::Origin, "127.0.0.5", 1935)],
            edges: vec![port(Role::Edge, "127.0.0.6", 1935), port(Role::Edge, "127.0.0.6", 1936)],
            elsewhere: Vec::new(),
            ssh: BTreeMap::new(),
            encoder: None,
        }
    }

    fn plan(change: impl FnOnce(&mut Cluster)) -> Vec<String> {
        let mut new = guide();
        change(&mut new);
        Plan::compare(&guide(), &new).actions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_cluster_needs_nothing_whatever_the_order_of_its_edges() {
        assert_eq!(plan(|_| {}), Vec::<String>::new());
        assert_eq!(plan(|new| new.edges.reverse()), Vec::<String>::new());
    }

    #[test]
    fn added_ports_are_started_and_then_forwarded_to() {
        let steps = plan(|new| {
            new.edges.insert(0, port(Role::Edge, "127.0.0.6", 1937));
            new.edges.push(port(Role::Edge, "127.0.0.8", 1935));
        });
        assert_eq!(
            steps,
            [
                "start edge-127.0.0.6-1937: added to the file",
                "start edge-127.0.0.8-1935: added to the file",
                "configure origin-127.0.0.5-1935: 2 more forward targets",
                "configure edge-127.0.0.6-1935: memory: a share for 3 ports → for 5",
                "configure edge-127.0.0.6-1936: memory: a share for 3 ports → for 5",
            ]
        );
    }

    #[test]
    fn every_origin_is_told_of_an_added_port_and_no_origin_is_added_itself() {
        let mut two = guide();
        two.origins.push(port(Role::Origin, "127.0.0.4", 1935));
        assert_eq!(plan(|new| new.clone_from(&two)), ["cannot change origins: 1 → 2"]);
        for edge in &mut two.edges {
            // It has no share.
            edge.options.memory = Memory::Fixed(300);
        }
        let mut more = two.clone();
        more.edges.push(port(Role::Edge, "127.0.0.8", 1935));
        let steps: Vec<_> = Plan::compare(&two, &more).actions.iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "start edge-127.0.0.8-1935: added to the file",
                "configure origin-127.0.0.5-1935: 1 more forward target",
                "configure origin-127.0.0.4-1935: 1 more forward target",
            ]
        );
    }

    #[test]
    fn any_other_change_is_refused_and_named() {
        type Change = fn(&mut Cluster);
        let cases: [(Change, &str); 9] = [
            (|new| new.name = "other".into(), "cannot change cluster: live → other"),
            (|new| new.origins[0].port = 1940, "cannot change origin-127.0.0.5-1935: port: 1935 → 1940"),
            (
                |new| new.origins[0].host.name = "h".into(),
                "cannot change origin-127.0.0.5-1935: host: 127.0.0.5 → h",
            ),
            (
                |new| new.origins[0].listen = [0, 0, 0, 0].into(),
                "cannot change origin-127.0.0.5-1935: listen: 127.0.0.5 → 0.0.0.0",
            ),
            (
                |new| new.edges[1].options.max_connections = 5,
                "cannot change edge-127.0.0.6-1936: max_connections: 10240 → 5",
            ),
            (
                |new| new.edges[1].options.gop_cache = false,
                "cannot change edge-127.0.0.6-1936: gop_cache: true → false",
            ),
            (
                |new| new.edges[1].listen = [0, 0, 0, 0].into(),
                "cannot change edge-127.0.0.6-1936: listen: 127.0.0.6 → 0.0.0.0",
            ),
            (|new| drop(new.edges.remove(0)), "cannot change edge-127.0.0.6-1935: removed from the file"),
            (
                |new| {
                    new.encoder = Some(Encoder { source: EncoderSource::TestCard, stream: "live/a".into() })
                },
                "cannot change encoder: encoder: added",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(plan(change), [expected]);
        }
    }

    #[test]
    fn a_refused_change_beside_an_added_port_shows_both() {
        let mut new = guide();
        new.edges.push(port(Role::Edge, "127.0.0.8", 1935));
        new.edges[0].options.gop_cache = false;
        let plan = Plan::compare(&guide(), &new);
        assert_eq!((plan.refused().count(), plan.units(Kind::Start).count()), (1, 1));
    }
}
