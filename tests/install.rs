//! `srsctl host install` on machines that have nothing but sshd, as a user who may use sudo without a password and as one who may not.

use std::fs;
use std::process::Command;

use crate::support::SOON;
use crate::support::cluster::{Done, SRSCTL, run};
use crate::support::machine::Machine;
use crate::support::wait_until;

/// The operator's side of a bare machine.
struct Operator<'a> {
    machine: &'a Machine,
}

impl Operator<'_> {
    fn new(machine: &Machine) -> Operator<'_> {
        let this = Operator { machine };
        let host = machine.net.host(5);
        let yaml = format!(
            "cluster: {}\norigin: {{ host: {host}, port: 1935, ssh: srsctl@{host}:2222 }}\nedges:\n  - {{ host: {host}, ports: [1936] }}\n",
            machine.net.cluster_name()
        );
        fs::write(machine.path("guide.yaml"), yaml).unwrap();
        let config = format!("IdentityFile {}\nIdentitiesOnly yes\n", machine.path("id").display());
        fs::write(machine.path("ssh_config"), config).unwrap();
        this
    }

    /// `srsctl` of the operator.
    fn srsctl(&self, args: &[&str]) -> Done {
        let mut command = Command::new(SRSCTL);
        command
            .arg("-f")
            .arg(self.machine.path("guide.yaml"))
            .args(args)
            .current_dir(self.machine.dir.path());
        command.env("SRSCTL_STATE_DIR", self.machine.path("operator")).env("NO_COLOR", "1");
        command.env("SRSCTL_SSH_CONFIG", self.machine.path("ssh_config")).env_remove("RUST_LOG");
        run(&mut command)
    }

    fn trust(&self) {
        let host = self.machine.net.host(5).to_string();
        let shown = run(Command::new("ssh-keygen").arg("-lf").arg(self.machine.path("host.pub"))).stdout;
        let fingerprint = shown.split_whitespace().nth(1).unwrap();
        self.srsctl(&["host", "trust", &host, "--host-key", fingerprint]).expect_code(0);
    }

    fn install(&self) -> Done {
        let to = format!("admin@{}:2222", self.machine.net.host(5));
        let key = self.machine.path("id.pub");
        self.srsctl(&["host", "install", &to, "--operator-key", key.to_str().unwrap()])
    }
}

#[test]
fn a_bare_host_is_installed_by_a_user_who_may_use_sudo_and_runs_the_cluster_then() {
    let Some(machine) = Machine::bare(true) else { return };
    let operator = Operator::new(&machine);
    operator.install().expect_code(1).expect_words(&["no key of it is pinned", "srsctl host trust"]);
    operator.trust();
    operator.install().expect_code(0).expect_words(&["copying srsctl", "user srsctl is made", "installed"]);
    wait_until("the service waits", SOON, || machine.property("StatusText") == "waits for srsctl up");
    let link = run(&mut machine.command("readlink", &["/usr/local/bin/srsctl"])).stdout;
    let sum = run(&mut machine.command("sha256sum", &[link.trim()])).stdout;
    assert!(link.contains(sum.split_whitespace().next().unwrap()), "{link} {sum}");
    assert_eq!(run(&mut machine.command("stat", &["-c", "%U:%a", "/var/lib/srsctl"])).stdout, "srsctl:700\n");

    operator.install().expect_code(0);
    operator.srsctl(&["up"]).expect_code(0);
    assert!(machine.property("StatusText").ends_with("2 of 2 ready"), "{}", machine.property("StatusText"));
}

#[test]
fn where_sudo_wants_a_password_the_one_command_for_root_is_printed_and_does_the_rest() {
    let Some(machine) = Machine::bare(false) else { return };
    let operator = Operator::new(&machine);
    operator.trust();
    let done = operator.install().expect_code(1).expect_words(&["ssh -t -p 2222 admin@", "host setup"]);
    let line = done.stderr.lines().find(|line| line.contains("ssh -t")).unwrap();
    // As the shell of whoever pastes it would, and then root's.
    let words = run(Command::new("sh")
        .args(["-c", &format!("for word in {line}; do last=$word; done; printf %s \"$last\"")]));
    let command = words.stdout.replacen("sudo ", "", 1);
    run(&mut machine.command("sh", &["-c", &command]))
        .expect_code(0)
        .expect_words(&["runs, and starts with the machine"]);
    assert_eq!(machine.property("StatusText"), "waits for srsctl up");
}
