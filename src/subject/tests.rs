//! What a command line means.

use std::fs;

use super::*;

const GUIDE: &str =
    "cluster: live\norigin: { host: 127.0.0.5 }\nedges:\n  - { host: 127.0.0.6, ports: [1935] }\n";

/// A directory for state and files, and the command line that names the file NAME in it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Global {
        fs::write(self.path(name), text).unwrap();
        Global { file: Some(self.path(name)), state_dir: Some(self.path("state")), ssh_config: None }
    }

    /// Brings the file NAME into force, as a start would.
    fn put_in_force(&self, name: &str, text: &str) -> Global {
        let global = self.write(name, text);
        let dirs = global.roots().unwrap().cluster("live");
        dirs.create().unwrap().keep();
        dirs.put_in_force(&self.path(name), text, &[]).unwrap();
        global
    }
}

fn refusal(global: &Global) -> String {
    Subject::find(global, None, "status").unwrap_err().to_string()
}

#[test]
fn a_file_means_its_cluster_though_the_rest_of_it_is_wrong() {
    let place = Scratch::new();
    let global = place.write("a.yaml", "cluster: live\nedges: 3\n");
    let subject = Subject::find(&global, None, "status").unwrap();
    assert_eq!(subject.name(), "live");
    assert!(subject.cluster().unwrap_err().to_string().contains("a.yaml:2:8"));
}

#[test]
fn a_file_that_is_broken_or_gone_means_the_cluster_that_was_started_from_it() {
    let place = Scratch::new();
    let global = place.put_in_force("a.yaml", GUIDE);
    for text in [Some("cluster: [\n"), Some("cluster: live\nedges: 3\n"), Some("cluster: other\n"), None] {
        match text {
            Some(text) => fs::write(place.path("a.yaml"), text).unwrap(),
            None => fs::remove_file(place.path("a.yaml")).unwrap(),
        }
        let cluster = Subject::find(&global, None, "status").unwrap().cluster().unwrap();
        assert_eq!(cluster.name, "live", "{text:?}");
    }
    let broken = place.write("b.yaml", "cluster: [\n");
    assert!(refusal(&broken).contains("b.yaml:1:"));
}

#[test]
fn a_file_with_the_name_of_another_cluster_is_refused_and_a_copy_is_not() {
    let place = Scratch::new();
    place.put_in_force("a.yaml", GUIDE);
    assert_eq!(Subject::find(&place.write("copy.yaml", GUIDE), None, "status").unwrap().name(), "live");
    let other = place.write("b.yaml", &GUIDE.replace("127.0.0.5", "127.0.0.8"));
    assert!(refusal(&other).contains("cluster `live` is known from "));
    fs::remove_file(place.path("a.yaml")).unwrap();
    assert_eq!(Subject::find(&other, None, "status").unwrap().name(), "live");
}

#[test]
fn a_file_that_differs_from_the_one_in_force_is_told() {
    let place = Scratch::new();
    let global = place.put_in_force("a.yaml", GUIDE);
    assert_eq!(Subject::find(&global, None, "status").unwrap().changed_file(), None);
    place.write("a.yaml", &format!("{GUIDE}# more\n"));
    assert_eq!(
        Subject::find(&global, None, "status").unwrap().changed_file().unwrap().path(),
        place.path("a.yaml")
    );
}

#[test]
fn a_clusters_name_stands_for_its_file_unless_a_file_is_called_so() {
    let place = Scratch::new();
    let global = place.put_in_force("a.yaml", GUIDE);
    let named = |file: Option<&str>| Global {
        file: file.map(PathBuf::from),
        state_dir: global.state_dir.clone(),
        ssh_config: None,
    };
    let by_name = named(Some("live"));
    let subject = Subject::find(&by_name, None, "status").unwrap();
    assert_eq!((subject.name(), subject.is_guessed()), ("live", false));
    assert_eq!(by_name.required_file(None).unwrap().path(), place.path("a.yaml"));
    assert_eq!(
        Subject::find(&named(None), Some(Path::new("live")), "status").unwrap().cluster().unwrap().name,
        "live"
    );
    fs::remove_file(place.path("a.yaml")).unwrap();
    assert_eq!(Subject::find(&by_name, None, "status").unwrap().cluster().unwrap().name, "live");
    assert!(refusal(&named(Some("dead"))).contains("dead: no such file"));
    let file = place.path("live");
    fs::write(&file, GUIDE.replace("live", "other")).unwrap();
    assert_eq!(Subject::find(&named(file.to_str()), None, "status").unwrap().name(), "other");
}

#[test]
fn an_encoder_that_check_finds_sound_may_publish_its_stream() {
    let (part, longest) = ("a".repeat(128), "b".repeat(127));
    for (stream, is_sound) in [
        (format!("{longest}/{longest}"), true),
        (format!("{longest}/{part}"), false),
        ("live/_definst_".to_owned(), false),
        ("live/...~_-".to_owned(), true),
    ] {
        let text = format!("{GUIDE}encoder: {{ source: test-card, stream: {stream} }}\n");
        let found = parse(&ClusterFile::new("a.yaml".into(), text));
        assert_eq!(found.is_ok(), is_sound, "{stream}");
        let key = stream.parse::<rtmp::server::StreamKey>().ok();
        assert!(!is_sound || key.is_some_and(|key| key.as_str() == stream), "{stream}");
    }
}

#[test]
fn a_cluster_has_one_name_on_a_command_line() {
    let place = Scratch::new();
    let global = place.put_in_force("a.yaml", GUIDE);
    assert!(Subject::find(&global, Some(&place.path("a.yaml")), "status").is_ok());
    let two = Subject::find(&global, Some(Path::new("live")), "status").unwrap_err();
    assert!(two.to_string().contains("not by both"), "{two}");
}

#[test]
fn what_comes_through_a_pipe_is_known_by_the_file_in_force() {
    let place = Scratch::new();
    let global = place.write("a.yaml", GUIDE);
    let piped = ClusterFile::new("/dev/fd/999".into(), GUIDE.into());
    let (subject, loaded) = Subject::of_loaded(&global, piped).unwrap();
    assert_eq!((loaded.path, loaded.text.as_str()), (subject.dirs().file_in_force(), GUIDE));
}
