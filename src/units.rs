//! The units of systemd, and what else is installed beside the program: the texts stand in deploy/systemd/, once.

use std::io;
use std::path::{Path, PathBuf};

/// The program of a package, which the texts name.
pub(crate) const PACKAGED: &str = "/usr/bin/srsctl";

/// Where `srsctl host install` puts each version, and the link to the one in force.
pub(crate) const VERSIONS: &str = "/usr/local/lib/srsctl";
/// See [`VERSIONS`].
pub(crate) const IN_FORCE: &str = "/usr/local/bin/srsctl";

/// A file that is installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    /// Where.
    pub(crate) path: &'static str,
    /// Also where that directory is not there yet.
    pub(crate) is_needed: bool,
    text: &'static str,
}

/// The units.
pub(crate) const UNITS: [File; 2] = [
    File {
        path: "/etc/systemd/system/srsctl@.service",
        is_needed: true,
        text: include_str!("../deploy/systemd/srsctl@.service"),
    },
    File {
        path: "/etc/systemd/system/srsctl-ports@.service",
        is_needed: true,
        text: include_str!("../deploy/systemd/srsctl-ports@.service"),
    },
];

/// What else belongs to them.
pub(crate) const BESIDE: [File; 2] = [
    File {
        path: "/etc/tmpfiles.d/srsctl.conf",
        is_needed: true,
        text: include_str!("../deploy/systemd/tmpfiles.conf"),
    },
    File {
        path: "/etc/needrestart/conf.d/srsctl.conf",
        is_needed: false,
        text: include_str!("../deploy/systemd/needrestart.conf"),
    },
];

/// The program that units are to run: this one. Of those that `srsctl host install` has put beside each other, whichever is the one in force.
///
/// # Errors
/// When /proc does not tell.
pub(crate) fn own_program() -> io::Result<PathBuf> {
    let own = supervisor::own_binary()?;
    Ok(if own.starts_with(VERSIONS) { PathBuf::from(IN_FORCE) } else { own })
}

impl File {
    /// Its text for a program at `program`.
    pub(crate) fn text(&self, program: &Path) -> String {
        self.text.replace(PACKAGED, &program.display().to_string())
    }

    /// Its path and text for one cluster alone.
    pub(crate) fn of(&self, cluster: &str, program: &Path) -> (String, String) {
        let path = self.path.replace("@.service", &format!("@{cluster}.service"));
        (path, self.text(program).replace("%i", cluster))
    }
}

#[cfg(test)]
mod tests {
    use cluster::Cluster;

    use super::*;

    fn value(file: &File, key: &str) -> Vec<String> {
        let found = file.text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.map(str::to_owned).collect()
    }

    #[test]
    fn each_unit_runs_the_program_that_it_is_rendered_for() {
        for unit in &UNITS {
            let text = unit.text(Path::new("/usr/local/bin/srsctl"));
            assert!(
                text.contains("/usr/local/bin/srsctl service ") && !text.contains("/usr/bin/srsctl"),
                "{text}"
            );
            let (path, text) = unit.of("live", Path::new(PACKAGED));
            assert!(path.ends_with("@live.service") && !text.contains("%i"), "{path}: {text}");
        }
    }

    #[test]
    fn systemd_keeps_the_listener_of_each_port_that_a_cluster_can_have() {
        let [most] = &*value(&UNITS[0], "FileDescriptorStoreMax") else { panic!("one is set") };
        assert!(most.parse::<usize>().unwrap() > Cluster::MAX_EDGE_PORTS);
    }

    #[test]
    fn a_restart_of_the_supervisor_leaves_the_workers_and_a_stop_does_not() {
        assert_eq!(value(&UNITS[0], "KillMode"), ["process"]);
        assert_eq!(value(&UNITS[0], "ExecStopPost"), value(&UNITS[1], "ExecStop"));
        assert_eq!(value(&UNITS[1], "PartOf"), ["srsctl@%i.service"]);
        assert_eq!(value(&UNITS[0], "RuntimeDirectoryPreserve"), ["yes"]);
        assert_eq!(value(&UNITS[1], "ExecStop"), ["+/usr/bin/srsctl service stop --if-stopped %n %i"]);
    }
}
