//! What has to be done to turn one cluster into another, as data: nothing is touched by making a plan.

use std::path::PathBuf;

use cluster::plan::{Action, Change};
use cluster::{
    Cluster, EncoderSource, EncoderSpec, Memory, Outbound, Port, Target, UnitId, WorkerOptions, WorkerSpec,
};

/// What is done to each process of either, in the order of `new`; those that it lacks come last but for the encoder. Without a `current`
/// all is started. The order of ports is no difference.
#[must_use]
pub fn compare(current: Option<&Cluster>, new: &Cluster) -> Vec<Change> {
    let of_current = |id: &UnitId| {
        let current = current?;
        Some((current, current.ports().find(|port| port.id() == *id)?))
    };
    let mut changes: Vec<Change> = new
        .ports()
        .map(|port| match of_current(&port.id()) {
            Some(current) => compare_port(current, (new, port)),
            None if current.is_none() => Change::new(port.id(), Action::Start, Vec::new()),
            None => Change::new(port.id(), Action::Start, vec!["added to the file".to_owned()]),
        })
        .collect();
    let is_kept = |port: &&Port| new.ports().any(|other| other.id() == port.id());
    let removed = current.into_iter().flat_map(Cluster::ports).filter(|port| !is_kept(port));
    let why = || vec!["removed from the file".to_owned()];
    changes.extend(removed.map(|port| Change::new(port.id(), Action::Stop, why())));
    changes.extend(compare_encoder(current, new));
    changes
}

/// Whether two specs of a port differ in nothing but its share of the machine's memory: what it has with its next start at the latest.
pub(crate) fn differ_in_share(old: &WorkerSpec, new: &WorkerSpec) -> bool {
    let memory = &new.options.memory;
    let are_shares = matches!((&old.options.memory, memory), (Memory::Auto(_), Memory::Auto(_)));
    let options = WorkerOptions { memory: *memory, ..old.options.clone() };
    are_shares && WorkerSpec { options, ..old.clone() } == *new
}

fn compare_port(current: (&Cluster, &Port), new: (&Cluster, &Port)) -> Change {
    let spec = |(cluster, port): (&Cluster, &Port)| cluster.worker_spec(port, PathBuf::new());
    let (action, why) = compare_specs(&spec(current), &spec(new));
    Change::new(new.1.id(), action, why)
}

/// What gives a port that runs with one spec another, and why.
pub(super) fn compare_specs(old: &WorkerSpec, new: &WorkerSpec) -> (Action, Vec<String>) {
    let mut why = Vec::new();
    let mut differ = |what: &str, from: String, to: String| {
        if from != to {
            why.push(format!("{what}: {from} → {to}"));
        }
    };
    // Destructured, so that a new field cannot be forgotten here.
    let WorkerSpec {
        id: _,
        cluster: _,
        role: _,
        host: _,
        listen,
        address,
        options,
        sources,
        forward,
        outbound,
        drain: _,
        secret_file: _,
    } = old;
    differ("listen", listen.ip().to_string(), new.listen.ip().to_string());
    let is_moved = listen != &new.listen;
    if !is_moved {
        let of = |address: &Option<std::net::IpAddr>| address.unwrap_or(listen.ip()).to_string();
        differ("address of its host", of(address), of(&new.address));
    }
    let WorkerOptions {
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
    differ("queue_length", queue_length.to_string(), new.options.queue_length.to_string());
    let (first, normal) = (new.options.publish_firstpkt_timeout, new.options.publish_normal_timeout);
    differ("publish_firstpkt_timeout", publish_firstpkt_timeout.to_string(), first.to_string());
    differ("publish_normal_timeout", publish_normal_timeout.to_string(), normal.to_string());
    differ("end_of_stream", end_of_stream.to_string(), new.options.end_of_stream.to_string());
    let share = |memory: &Memory| match memory {
        Memory::Auto(ports) => format!("a share for {ports} ports"),
        Memory::Fixed(_) => memory.to_string(),
    };
    differ("memory", share(memory), share(&new.options.memory));
    let names =
        |sources: &[std::net::IpAddr]| sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    differ("origin", names(sources), names(&new.sources));
    let added = new.forward.iter().filter(|it| !forward.iter().any(|other| other.id == it.id)).count();
    let removed = forward.iter().filter(|it| !new.forward.iter().any(|other| other.id == it.id)).count();
    for (count, how) in [(added, "more"), (removed, "fewer")] {
        match count {
            0 => {}
            1 => why.push(format!("1 {how} forward target")),
            count => why.push(format!("{count} {how} forward targets")),
        }
    }
    // Their order is no difference.
    let moved = |it: &&Target| new.forward.iter().any(|other| other.id == it.id && other != *it);
    if forward.iter().any(|it| moved(&it)) {
        why.push("forward targets are reached elsewhere".to_owned());
    }
    why.extend(compare_outbound(outbound, &new.outbound));
    let action = if is_moved {
        Action::Restart
    } else if why.is_empty() {
        Action::Nothing
    } else {
        Action::Reconfigure
    };
    (action, why)
}

/// What becomes of the targets beyond the edges. Their order is no difference.
fn compare_outbound(old: &[Outbound], new: &[Outbound]) -> Vec<String> {
    let of = |all: &[Outbound], name: &str| all.iter().find(|it| it.name == name).cloned();
    let added = new.iter().filter(|it| of(old, &it.name).is_none());
    let mut why: Vec<String> = added.map(|it| format!("forward {}: none → {}", it.name, it.to)).collect();
    for it in old {
        let Outbound { name, to, streams, except, key } = it;
        match of(new, name) {
            None => why.push(format!("forward {name}: {to} → none")),
            Some(new) if new == *it => {}
            Some(new) if new.to != *to => why.push(format!("forward {name}: {to} → {}", new.to)),
            Some(new) => {
                let what = [
                    (new.streams != *streams || new.except != *except, "other streams"),
                    (new.key != *key, "another key"),
                ];
                let what: Vec<&str> = what.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
                why.push(format!("forward {name}: {}", what.join(", ")));
            }
        }
    }
    why
}

fn compare_encoder(current: Option<&Cluster>, new: &Cluster) -> Option<Change> {
    let of = |action, why| Some(Change::new(UnitId::encoder(), action, why));
    match (current.and_then(Cluster::encoder_spec), new.encoder_spec()) {
        (None, None) => None,
        (None, Some(_)) if current.is_none() => of(Action::Start, Vec::new()),
        (None, Some(_)) => of(Action::Start, vec!["added to the file".to_owned()]),
        (Some(_), None) => of(Action::Stop, vec!["removed from the file".to_owned()]),
        (Some(old), Some(new)) => {
            let mut why = Vec::new();
            let EncoderSpec { id: _, cluster: _, source, url } = &old;
            let name = |source: &EncoderSource| match source {
                EncoderSource::TestCard => "test-card".to_owned(),
                EncoderSource::File(path) => path.display().to_string(),
            };
            if *source != new.source {
                why.push(format!("source: {} → {}", name(source), name(&new.source)));
            }
            if *url != new.url {
                why.push(format!("publishes to: {url} → {}", new.url));
            }
            of(if why.is_empty() { Action::Nothing } else { Action::Restart }, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use cluster::{Encoder, Host, Role};

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
            forward: Vec::new(),
            ssh: BTreeMap::new(),
            encoder: None,
        }
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let changes = changes.iter().filter(|change| change.action != Action::Nothing);
        changes.map(|it| format!("{} {}: {}", it.action, it.unit, it.why.join("; "))).collect()
    }

    fn plan(change: impl FnOnce(&mut Cluster)) -> Vec<String> {
        let mut new = guide();
        change(&mut new);
        told(&compare(Some(&guide()), &new))
    }

    #[test]
    fn the_same_cluster_needs_nothing_whatever_the_order_of_its_edges() {
        assert_eq!(plan(|_| {}), Vec::<String>::new());
        assert_eq!(plan(|new| new.edges.reverse()), Vec::<String>::new());
    }

    #[test]
    fn where_nothing_runs_all_is_started() {
        let mut new = guide();
        new.encoder = Some(Encoder { source: EncoderSource::TestCard, stream: "live/a".into() });
        let all = [
            "start origin-127.0.0.5-1935: ",
            "start edge-127.0.0.6-1935: ",
            "start edge-127.0.0.6-1936: ",
            "start encoder: ",
        ];
        assert_eq!(told(&compare(None, &new)), all);
    }

    #[test]
    fn added_ports_are_started_and_forwarded_to() {
        let steps = plan(|new| {
            new.edges.insert(0, port(Role::Edge, "127.0.0.6", 1937));
            new.edges.push(port(Role::Edge, "127.0.0.8", 1935));
        });
        assert_eq!(
            steps,
            [
                "reconfigure origin-127.0.0.5-1935: memory: a share for 3 ports → a share for 5 ports; 2 more forward targets",
                "start edge-127.0.0.6-1937: added to the file",
                "reconfigure edge-127.0.0.6-1935: memory: a share for 3 ports → a share for 5 ports",
                "reconfigure edge-127.0.0.6-1936: memory: a share for 3 ports → a share for 5 ports",
                "start edge-127.0.0.8-1935: added to the file",
            ]
        );
    }

    #[test]
    fn a_removed_port_is_stopped_and_forwarded_to_no_more() {
        let mut two = guide();
        for port in two.origins.iter_mut().chain(&mut two.edges) {
            // It has no share.
            port.options.memory = Memory::Fixed(300);
        }
        let mut one = two.clone();
        one.edges.remove(0);
        assert_eq!(
            told(&compare(Some(&two), &one)),
            [
                "reconfigure origin-127.0.0.5-1935: 1 fewer forward target",
                "stop edge-127.0.0.6-1935: removed from the file",
            ]
        );
    }

    #[test]
    fn targets_beyond_the_edges_come_go_and_change_while_the_origin_runs() {
        let outbound = |name: &str, to: &str, streams: &str| Outbound {
            name: name.into(),
            to: to.to_owned().try_into().unwrap(),
            streams: vec![streams.to_owned().try_into().unwrap()],
            except: Vec::new(),
            key: None,
        };
        let mut old = guide();
        let (a, b) =
            (outbound("a", "rtmp://a/{app}/{stream}", "**"), outbound("b", "rtmp://b/{app}/{stream}", "**"));
        let c = outbound("c", "rtmp://c/{app}/{stream}", "**");
        old.forward = vec![a.clone(), b.clone(), c.clone()];
        let mut new = old.clone();
        new.forward.reverse();
        assert_eq!(told(&compare(Some(&old), &new)), Vec::<String>::new());
        new.forward = vec![
            outbound("a", "rtmp://x/{app}/{stream}", "**"),
            outbound("b", "rtmp://b/{app}/{stream}", "live/*"),
            outbound("d", "rtmp://d/{app}/{stream}", "**"),
        ];
        assert_eq!(
            told(&compare(Some(&old), &new)),
            ["reconfigure origin-127.0.0.5-1935: forward d: none → rtmp://d/{app}/{stream}; \
                 forward a: rtmp://a/{app}/{stream} → rtmp://x/{app}/{stream}; forward b: other streams; \
                 forward c: rtmp://c/{app}/{stream} → none"]
        );
    }

    #[test]
    fn a_knob_of_a_port_changes_while_it_runs_and_says_from_what_to_what() {
        let steps = plan(|new| {
            let options = &mut new.edges[1].options;
            (options.max_connections, options.gop_cache) = (5, false);
            options.latency = "100ms".parse().unwrap();
        });
        assert_eq!(
            steps,
            [
                "reconfigure edge-127.0.0.6-1936: max_connections: 10240 → 5; gop_cache: true → false; latency: auto → 100ms"
            ]
        );
    }

    #[test]
    fn a_changed_port_or_host_is_a_removal_and_an_addition_and_another_listen_a_restart() {
        let steps = plan(|new| new.edges[1].port = 1940);
        assert_eq!(steps.iter().filter(|step| step.starts_with("start edge-127.0.0.6-1940")).count(), 1);
        assert_eq!(steps.iter().filter(|step| step.starts_with("stop edge-127.0.0.6-1936")).count(), 1);
        let steps = plan(|new| new.edges[1].listen = [0, 0, 0, 0].into());
        assert_eq!(
            steps,
            [
                "reconfigure origin-127.0.0.5-1935: forward targets are reached elsewhere",
                "restart edge-127.0.0.6-1936: listen: 127.0.0.6 → 0.0.0.0",
            ]
        );
    }

    #[test]
    fn another_origin_is_started_the_edges_are_told_and_the_encoder_goes_there() {
        let mut old = guide();
        old.encoder = Some(Encoder { source: EncoderSource::TestCard, stream: "live/a".into() });
        let mut new = old.clone();
        new.origins[0] = port(Role::Origin, "127.0.0.4", 1935);
        assert_eq!(
            told(&compare(Some(&old), &new)),
            [
                "start origin-127.0.0.4-1935: added to the file",
                "reconfigure edge-127.0.0.6-1935: origin: 127.0.0.5 → 127.0.0.4",
                "reconfigure edge-127.0.0.6-1936: origin: 127.0.0.5 → 127.0.0.4",
                "stop origin-127.0.0.5-1935: removed from the file",
                "restart encoder: publishes to: rtmp://127.0.0.5:1935/live/a → rtmp://127.0.0.4:1935/live/a",
            ]
        );
    }

    #[test]
    fn an_encoder_is_started_stopped_and_started_anew() {
        let card = Encoder { source: EncoderSource::TestCard, stream: "live/a".into() };
        assert_eq!(plan(|new| new.encoder = Some(card.clone())), ["start encoder: added to the file"]);
        let mut old = guide();
        old.encoder = Some(card);
        let mut new = old.clone();
        new.encoder.as_mut().unwrap().source = EncoderSource::File("/clip.flv".into());
        assert_eq!(told(&compare(Some(&old), &new)), ["restart encoder: source: test-card → /clip.flv"]);
        assert_eq!(told(&compare(Some(&old), &guide())), ["stop encoder: removed from the file"]);
    }
}
