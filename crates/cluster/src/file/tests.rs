//! Cluster files that are right or wrong, and what is read of them.

use super::*;
use crate::spec::{EncoderSource, Role, hosts};

fn no_names(name: &str) -> io::Result<Vec<IpAddr>> {
    Err(io::Error::other(format!("{name} was looked up")))
}

fn file(text: &str) -> ClusterFile {
    ClusterFile::new("c.yaml".into(), text.into())
}

fn load(path: &Path) -> Result<Cluster, FileError> {
    ClusterFile::read(path)?.cluster(&no_names)
}

fn read_text(text: &str) -> Result<Cluster, String> {
    file(text).cluster(&no_names).map_err(|e| e.to_string())
}

fn with_names(text: &str, names: &[(&str, &[&str])]) -> Result<Cluster, String> {
    let resolve = |name: &str| {
        let (_, addresses) =
            names.iter().find(|(n, _)| *n == name).ok_or_else(|| io::Error::other("not known"))?;
        Ok(addresses.iter().map(|a| a.parse().unwrap()).collect())
    };
    file(text).cluster(&resolve).map_err(|e| e.to_string())
}

const GUIDE: &str =
    "cluster: live\norigin: { host: 127.0.0.5 }\nedges:\n  - { host: 127.0.0.6, ports: [1935, 1936] }\n";

#[test]
fn the_shipped_examples_are_the_guides_cluster() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (file, net) in [("cluster.yaml", "127.0.0"), ("deploy/examples/guide.yaml", "192.168.1")] {
        let cluster = load(&root.join(file)).unwrap_or_else(|e| panic!("{e}"));
        let ports: Vec<_> = cluster.ports().map(|p| (p.role, p.listen_addr().to_string())).collect();
        let expected = [
            (Role::Origin, format!("{net}.5:1935")),
            (Role::Edge, format!("{net}.6:1935")),
            (Role::Edge, format!("{net}.6:1936")),
            (Role::Edge, format!("{net}.7:1935")),
            (Role::Edge, format!("{net}.7:1936")),
        ];
        assert_eq!(ports, expected);
        assert!(cluster.ports().all(|p| p.options.max_connections == 10_240 && p.options.gop_cache));
        assert_eq!(cluster.encoder, None);
    }
}

#[test]
fn the_encoder_shown_as_a_comment_works_when_it_is_uncommented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for file in ["cluster.yaml", "deploy/examples/guide.yaml"] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let with = text.replace("#encoder:", "encoder:");
        assert_ne!(text, with);
        let encoder = read_text(&with).unwrap().encoder.unwrap();
        assert_eq!((encoder.source, encoder.stream.as_str()), (EncoderSource::TestCard, "live/livestream"));
    }
}

#[test]
fn the_origin_is_on_port_1935_unless_the_file_says_otherwise() {
    assert_eq!(read_text(GUIDE).unwrap().origins[0].port, 1935);
    let text = GUIDE.replace("127.0.0.5", "127.0.0.5, port: 2000");
    assert_eq!(read_text(&text).unwrap().origins[0].port, 2000);
}

#[test]
fn an_edge_overrides_the_defaults_key_by_key() {
    let text = "cluster: live\norigin: { host: 127.0.0.5, worker: { gop_cache: true } }\nedges:\n  - { host: 127.0.0.6, ports: [1], worker: { max_connections: 5 } }\n  - { host: 127.0.0.7, ports: [1] }\nworker: { max_connections: 3000, gop_cache: false }\n";
    let cluster = read_text(text).unwrap();
    let options: Vec<_> = cluster.ports().map(|p| (p.options.max_connections, p.options.gop_cache)).collect();
    assert_eq!(options, [(3000, true), (5, false), (3000, false)]);
}

#[test]
fn entries_of_one_host_are_merged() {
    let text = GUIDE.to_owned() + "  - { host: 127.0.0.6, ports: [1937], listen: 0.0.0.0 }\n";
    let cluster = read_text(&text).unwrap();
    let bound: Vec<_> = cluster.edges.iter().map(|p| p.listen_addr().to_string()).collect();
    assert_eq!(bound, ["127.0.0.6:1935", "127.0.0.6:1936", "0.0.0.0:1937"]);
}

#[test]
fn an_edge_on_another_port_of_the_origins_host_is_fine() {
    let text = GUIDE.replace("127.0.0.6", "127.0.0.5").replace("[1935, 1936]", "[1936]");
    assert_eq!(read_text(&text).unwrap().edges.len(), 1);
}

#[test]
fn a_name_is_bound_on_the_same_address_in_whatever_order_they_are_given() {
    let text = GUIDE.replace("127.0.0.6", "edge");
    for addresses in [&["::1", "10.0.0.9", "10.0.0.2"][..], &["10.0.0.2", "10.0.0.9", "::1"]] {
        let cluster = with_names(&text, &[("edge", addresses)]).unwrap();
        assert_eq!(cluster.edges[0].listen, "10.0.0.2".parse::<IpAddr>().unwrap());
    }
}

#[test]
fn ports_that_cannot_both_be_bound_are_told() {
    for (origin, edge, both) in [
        ("0.0.0.0", "127.0.0.6", false),
        ("127.0.0.1", "0.0.0.0", false),
        ("127.0.0.1", "127.0.0.1", false),
        ("\"::\"", "127.0.0.6", false),
        ("\"::1\"", "0.0.0.0", true),
        ("127.0.0.1", "127.0.0.2", true),
    ] {
        let text = GUIDE
            .replace("host: 127.0.0.5", &format!("host: 127.0.0.5, listen: {origin}"))
            .replace("host: 127.0.0.6", &format!("host: 127.0.0.6, listen: {edge}"));
        assert_eq!(read_text(&text).is_ok(), both, "{origin} {edge}");
    }
}

#[test]
fn a_name_is_kept_as_written_and_bound_on_an_ipv4_address_where_it_has_one() {
    let text = GUIDE.replace("127.0.0.6", "Edge-a");
    let cluster = with_names(&text, &[("Edge-a", &["::1", "127.0.0.6"])]).unwrap();
    assert_eq!(cluster.edges[0].host.name, "Edge-a");
    assert_eq!(cluster.edges[0].listen_addr().to_string(), "127.0.0.6:1935");
}

#[test]
fn a_name_is_looked_up_once() {
    let asked = std::cell::RefCell::new(Vec::new());
    let resolve = |name: &str| {
        asked.borrow_mut().push(name.to_owned());
        Ok(vec!["127.0.0.6".parse().unwrap()])
    };
    let text = GUIDE.replace("127.0.0.6", "edge") + "  - { host: edge, ports: [1937] }\n";
    file(&text).cluster(&resolve).unwrap();
    assert_eq!(*asked.borrow(), ["edge"]);
}

#[test]
fn a_host_with_several_entries_is_one_host() {
    let text =
        GUIDE.to_owned() + "  - { host: 127.0.0.5, ports: [1936] }\n  - { host: 127.0.0.6, ports: [1] }\n";
    let cluster = read_text(&text).unwrap();
    let names: Vec<_> = hosts(cluster.ports()).into_iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["127.0.0.5", "127.0.0.6"]);
    assert_eq!(hosts(&cluster.edges).len(), 2);
}

#[test]
fn every_worker_knows_the_addresses_that_the_origins_connections_come_from() {
    let text = GUIDE.replace("host: 127.0.0.5", "host: 10.0.0.5, listen: 127.0.0.5");
    let mut cluster = read_text(&text).unwrap();
    let mut other = cluster.origins[0].clone();
    (other.host.address, other.listen) = ([10, 0, 0, 4].into(), [0, 0, 0, 0].into());
    cluster.origins.push(other);
    for port in cluster.ports() {
        let sources = cluster.worker_spec(port, "/s".into()).sources;
        assert_eq!(sources, ["127.0.0.5", "10.0.0.4"].map(|a| a.parse::<IpAddr>().unwrap()));
    }
}

#[test]
fn two_names_of_one_address_are_one_server() {
    let text = GUIDE.replace("127.0.0.6", "a") + "  - { host: b, ports: [1936] }\n";
    let message = with_names(&text, &[("a", &["10.0.0.1", "10.0.0.2"]), ("b", &["10.0.0.2"])]).unwrap_err();
    assert!(
        message.starts_with("c.yaml:5:24: b:1936 and a:1936 are the same port: both are 10.0.0.2:1936"),
        "{message}"
    );
    assert!(with_names(&text, &[("a", &["10.0.0.1"]), ("b", &["10.0.0.2"])]).is_ok());
}

#[test]
fn an_address_is_the_same_however_it_is_written() {
    for (one, other) in [("\"::ffff:127.0.0.6\"", "127.0.0.6"), ("\"::1\"", "\"0:0:0:0:0:0:0:1\"")] {
        let text = GUIDE.replace("127.0.0.6", one) + &format!("  - {{ host: {other}, ports: [1935] }}\n");
        let message = read_text(&text).unwrap_err();
        assert!(message.contains("are the same port"), "{message}");
    }
}

#[test]
fn nothing_is_looked_up_while_something_else_is_wrong() {
    let text = GUIDE.replace("127.0.0.6", "edge").replace("1936", "70000");
    let message = read_text(&text).unwrap_err();
    assert!(message.contains("70000") && !message.contains("looked up"), "{message}");
}

#[test]
fn a_name_without_a_usable_address_is_refused() {
    for addresses in [&[][..], &["0.0.0.0"], &["224.0.0.1"]] {
        let message = with_names(&GUIDE.replace("127.0.0.6", "edge"), &[("edge", addresses)]).unwrap_err();
        assert!(message.contains("c.yaml:4:13: the host \"edge\" has no address"), "{message}");
    }
}

#[test]
fn anchors_and_merge_keys_work() {
    let text = "cluster: live\norigin: { host: 127.0.0.5 }\nedges:\n  - &e { host: 127.0.0.6, ports: &p [1935], worker: { max_connections: 9 } }\n  - <<: *e\n    host: 127.0.0.7\n  - { host: 127.0.0.8, ports: *p }\n";
    let cluster = read_text(text).unwrap();
    let ports: Vec<_> =
        cluster.edges.iter().map(|p| (p.id().to_string(), p.options.max_connections)).collect();
    let expected = [("edge-127.0.0.6-1935", 9), ("edge-127.0.0.7-1935", 9), ("edge-127.0.0.8-1935", 10_240)];
    assert_eq!(ports, expected.map(|(id, n)| (id.to_owned(), n)));
}

#[test]
fn a_byte_order_mark_and_line_ends_of_windows_are_no_error() {
    let text = format!("\u{feff}{}", GUIDE.replace('\n', "\r\n"));
    assert!(read_text(&text).is_ok());
}

#[test]
fn the_encoders_file_is_beside_the_cluster_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, format!("{GUIDE}encoder: {{ source: a b.FLV, stream: live/x }}\n")).unwrap();
    let message = load(&path).unwrap_err().to_string();
    assert!(message.contains("does not exist"), "{message}");
    std::fs::write(dir.path().join("a b.FLV"), "FLV").unwrap();
    let encoder = load(&path).unwrap().encoder.unwrap();
    assert_eq!(encoder.source, EncoderSource::File(dir.path().join("a b.FLV")));
    assert_eq!(encoder.stream, "live/x");
}

#[test]
fn the_most_ports_fit_and_one_more_does_not() {
    let text = |n: u16| {
        let ports: Vec<_> = (1..=n).map(|p| p.to_string()).collect();
        GUIDE.replace("1935, 1936", &ports.join(","))
    };
    assert_eq!(read_text(&text(256)).unwrap().edges.len(), 256);
    let message = read_text(&text(257)).unwrap_err();
    assert!(message.contains("more than 256 edge ports"), "{message}");
    assert_eq!(message.matches("c.yaml:").count(), 1, "{message}");
}

#[test]
fn a_file_larger_than_the_limit_a_directory_and_a_device_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large.yaml");
    std::fs::write(&large, "#".repeat(2 * MAX_FILE)).unwrap();
    for (path, expected) in [
        (&*large, "larger than 1024 KiB"),
        (dir.path(), "this is a directory"),
        (Path::new("/dev/zero"), "larger than 1024 KiB"),
    ] {
        let error = load(path).unwrap_err();
        assert!(matches!(error, FileError::Unreadable(_)));
        assert!(error.to_string().starts_with(&format!("{}: {expected}", path.display())), "{error}");
    }
}

#[test]
fn the_name_is_known_although_the_rest_is_wrong() {
    let name = |text| file(text).name().map_err(|e| e.to_string());
    let text = "cluster: live\norigin: { host: gone }\nencoder: { source: gone.flv }\nextra: 1\n";
    assert_eq!(name(text), Ok("live".into()));
    assert!(name("cluster: li ve\n").unwrap_err().contains(":1:10: expected a cluster name"));
    assert!(name("origin: 1\n").unwrap_err().contains("lacks `cluster`"));
    assert!(name("- 1\n").is_err());
}

#[test]
fn the_origin_of_a_file_is_found_whatever_else_is_wrong() {
    let with = |origin: &str| file(&format!("cluster: li ve\norigin: {origin}\nextra: 1\n")).origin();
    assert_eq!(with("{ host: Gone.example, port: 1936 }").as_deref(), Some("gone.example:1936"));
    assert_eq!(with("{ host: 127.0.0.5 }").as_deref(), Some("127.0.0.5:1935"));
    for wrong in ["1", "{ port: 1935 }", "{ host: a, port: }", "{"] {
        assert_eq!(with(wrong), None, "{wrong}");
    }
}

#[test]
fn whatever_becomes_of_a_sound_file_it_is_refused_in_short_harmless_lines_or_taken_whole() {
    let text = "cluster: live\norigin: &o { host: 127.0.0.5, port: 1935, worker: { max_connections: 3, gop_cache: true } }\nedges:\n  - host: 127.0.0.6\n    ports: [1935]\n  - <<: *o\n    host: '::1'\nencoder: { source: test-card, stream: live/x }\n";
    for at in 0..text.len() {
        fuzz::cluster_file(&text.as_bytes()[..at]);
        let long = "9".repeat(1_000);
        for with in [
            &long,
            &format!("!{long} "),
            &format!("'{long}"),
            "",
            "\t",
            "\n",
            "-",
            ": ",
            "[",
            "*",
            "\u{feff}",
            "\"",
            "主",
            "{}",
            "~",
            "99999999999999999999999999999999999999999",
            "\u{1b}[2J",
            "\"\\e\"",
        ] {
            let mut changed = text.to_owned();
            changed.replace_range(at..=at, with);
            fuzz::cluster_file(changed.as_bytes());
        }
    }
}

#[test]
fn a_misspelt_key_finds_the_one_that_was_meant() {
    let near = |text| check::nearest(text, &["cluster", "host", "port", "max_connections", "gop_cache"]);
    assert_eq!(near("prot"), Some("port"));
    assert_eq!(near("ports"), Some("port"));
    assert_eq!(near("Host"), Some("host"));
    assert_eq!(near("max-connection"), Some("max_connections"));
    assert_eq!(near("gopcache"), Some("gop_cache"));
    assert_eq!(near("latency"), None);
    assert_eq!(near(""), None);
    assert_eq!(near(&"x".repeat(100_000)), None);
}
