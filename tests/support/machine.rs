//! A machine with srsctl's units as they are rendered. It shares the network, so that players of the test reach its ports.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;

use cluster::status::{Status, UnitState};

use super::cluster::{Done, SRSCTL, copy_of_srsctl, run};
use super::net::Net;
use super::system::System;
use super::{SOON, wait_for};

/// The user of the services.
const USER: &str = "61935";

/// Becomes the machine whose files are in the directory `$0`.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$0/var-lib" /var/lib
mount --bind "$0/passwd" /etc/passwd
mount --bind "$0/group" /etc/group
mount --bind "$0/bin" /usr/local/bin
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export container=srsctl-test SYSTEMD_UNIT_PATH="$0/units"
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
"#;

/// A machine with the service of one cluster. What is below /var/lib outlives a reboot.
pub struct Machine {
    /// Its network.
    pub net: Net,
    system: System,
}

impl Deref for Machine {
    type Target = System;

    fn deref(&self) -> &System {
        &self.system
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut System {
        &mut self.system
    }
}

impl Machine {
    /// A machine that has booted, with these lines in the section [Service] of its unit; nothing where this user is not root.
    pub fn booted(lines: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: it takes root to be a machine with systemd");
            return None;
        }
        let mut this = Self { net: Net::new(), system: System::new(BOOT, None) };
        this.install(lines);
        this.boot();
        Some(this)
    }

    fn install(&mut self, lines: &str) {
        for dir in ["var-lib", "bin"] {
            fs::create_dir_all(self.path(dir)).unwrap();
        }
        for (file, line) in [
            ("passwd", format!("srsctl:x:{USER}:{USER}::/:/bin/sh\n")),
            ("group", format!("srsctl:x:{USER}:\n")),
        ] {
            let text = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            fs::write(self.path(file), text + &line).unwrap();
        }
        copy_of_srsctl(&self.path("bin/srsctl"));
        fs::write(self.path("bin/cluster.yaml"), self.net.guide()).unwrap();
        let units = self.path("units");
        run(Command::new(SRSCTL)
            .args(["render", "systemd", "--program", "/usr/local/bin/srsctl", "-o"])
            .arg(&units))
        .expect_code(0);
        fs::create_dir(units.join("srsctl@.service.d")).unwrap();
        fs::write(units.join("srsctl@.service.d/test.conf"), format!("[Service]\n{lines}\n")).unwrap();
        let unit = self.unit();
        self.enable(&unit, "srsctl@.service");
    }

    /// The service of its cluster.
    pub fn unit(&self) -> String {
        format!("srsctl@{}.service", self.net.cluster_name())
    }

    /// What systemd says of its service.
    pub fn property(&self, name: &str) -> String {
        self.property_of(&self.unit(), name)
    }

    /// The supervisor's process, as it is called there; 0 while there is none.
    pub fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().unwrap_or(0)
    }

    /// `srsctl` on it, as the user of the services, without any flag that says where the state is.
    pub fn srsctl(&self, args: &[&str]) -> Done {
        let user = ["--reuid", USER, "--regid", USER, "--clear-groups", "/usr/local/bin/srsctl"];
        run(&mut self.command("setpriv", &[&user[..], args].concat()))
    }

    /// `srsctl up` of its cluster.
    #[track_caller]
    pub fn up(&self) {
        self.srsctl(&["up", "/usr/local/bin/cluster.yaml"]).expect_code(0);
    }

    /// `srsctl status --json` of its cluster.
    pub fn status(&self) -> Result<Status, String> {
        let done = self.srsctl(&["status", "--json", &self.net.cluster_name()]);
        serde_json::from_str(&done.stdout).map_err(|e| format!("{e}: {done:?}"))
    }

    /// The processes of its ports, once a supervisor says that all are ready.
    #[track_caller]
    pub fn await_ready(&self) -> Vec<Option<u32>> {
        wait_for("all ports are ready", SOON, || {
            let status = self.status()?;
            let ready = status.units.iter().filter(|unit| unit.state == UnitState::Running);
            if ready.count() == 5 {
                Ok(status.units.iter().flat_map(|unit| [unit.pid, unit.keeper_pid]).collect())
            } else {
                Err(format!("{status:?}"))
            }
        })
    }

    /// What its supervisors have told of what happened.
    pub fn events(&self) -> String {
        let name = self.net.cluster_name();
        fs::read_to_string(self.path("var-lib/srsctl").join(name).join("events.jsonl")).unwrap_or_default()
    }
}
