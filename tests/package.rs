//! The package for Debian on a machine with systemd: a newer one over a cluster that runs.

use std::process::Command;

use crate::support::cluster::{finish, run};
use crate::support::guide::Guide;
use crate::support::pictures::assert_nothing_lost;
use crate::support::{SOON, wait_until};

const UNIT: &str = "srsctl@live.service";
const FILE: &str = "cluster: live
origin: { host: 192.168.1.5, port: 1935, ssh: srsctl@192.168.1.5 }
edges:
  - { host: 192.168.1.5, ports: [1936] }
encoder: { source: test-card, stream: live/livestream }
";

/// Builds the package `$2` of the program `$1`, with the version `$3`, in the repository `$0`: what of `make deb` does something when it is installed.
/// That one takes a release build and cargo-deb; tests/deb.sh looks at what it made.
const BUILD: &str = r#"
set -eu
tree=$2.tree
install -D -m 755 "$1" "$tree/usr/bin/srsctl"
for unit in srsctl@.service srsctl-ports@.service; do
  install -D -m 644 "$0/deploy/systemd/$unit" "$tree/usr/lib/systemd/system/$unit"
done
install -D -m 644 "$0/deploy/systemd/tmpfiles.conf" "$tree/usr/lib/tmpfiles.d/srsctl.conf"
for script in postinst prerm postrm; do install -D -m 755 "$0/deploy/debian/$script" "$tree/DEBIAN/$script"; done
printf 'Package: srsctl\nVersion: %s\nArchitecture: %s\nMaintainer: The maintainers\nDescription: srsctl\n' \
  "$3" "$(dpkg --print-architecture)" > "$tree/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -z1 --build "$tree" "$2" > /dev/null
"#;

/// The supervisor's process and those of the ports, as the machine numbers them.
fn processes(guide: &Guide) -> (String, Vec<String>) {
    let host = guide.host(5);
    let workers = host.processes().into_iter().filter(|line| line.contains(" worker "));
    (host.property_of(UNIT, "MainPID"), workers.collect())
}

/// The SHA-256 of what a process there runs.
fn program(guide: &Guide, pid: &str) -> String {
    let sum = guide.host(5).sh(&format!("sha256sum < /proc/{pid}/exe")).expect_code(0).stdout;
    sum.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_newer_package_has_another_supervisor_and_ports_and_players_do_not_notice() {
    let Some(guide) = Guide::bare(&[5], true) else { return };
    let host = guide.host(5);
    guide.laptop.write("guide.yaml", FILE);
    guide.laptop.trust(5);
    let install = |name: &str, version: &str| {
        let (program, package) = (guide.use_program(name, name), host.path(&format!("{name}.deb")));
        let repository = env!("CARGO_MANIFEST_DIR");
        run(Command::new("sh").args(["-c", BUILD, repository]).arg(program).arg(package).arg(version))
            .expect_code(0);
        host.sh(&format!("dpkg --install /machine/{name}.deb")).expect_code(0);
    };
    install("first", "0.1.0-1");
    // As docs/deploy.md has it, as root.
    let document = std::fs::read_to_string(format!("{}/docs/deploy.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    for command in [
        "systemctl enable --now srsctl@live",
        "srsctl host setup --packaged --operator-key \"$(cat id_ed25519.pub)\"",
    ] {
        assert!(document.contains(&format!("\nsudo {command}\n")), "{command}");
        host.sh(&format!("cp /machine/id.pub id_ed25519.pub; {command}")).expect_code(0);
    }
    wait_until("the service waits", SOON, || host.property_of(UNIT, "StatusText") == "waits for srsctl up");
    guide.run_line("srsctl -f guide.yaml up").expect_code(0).expect_words(&["origin 1/1 edges 1/1"]);
    let list = guide.laptop.dir.path().join("player");
    let player = guide.laptop.player("rtmp://192.168.1.5:1936/live/livestream", &list);
    let (supervisor, ports) = processes(&guide);
    assert_eq!(ports.len(), 4, "keepers and workers: {ports:?}");

    install("second", "0.1.0-2");
    wait_until("the next supervisor", SOON, || {
        host.property_of(UNIT, "StatusText").ends_with("3 of 3 ready") && processes(&guide).0 != supervisor
    });
    let (next, same) = processes(&guide);
    assert_eq!(same, ports);
    assert_ne!(program(&guide, &next), program(&guide, ports[0].split(' ').next().unwrap()));
    guide.run_line("srsctl -f guide.yaml status").expect_code(0);
    guide.run_line("srsctl -f guide.yaml upgrade --canary 0").expect_code(0);
    for port in processes(&guide).1 {
        assert_eq!(program(&guide, &next), program(&guide, port.split(' ').next().unwrap()));
    }
    guide.laptop.interrupt(&player);
    finish(player, SOON);
    assert_nothing_lost(&std::fs::read_to_string(&list).unwrap());

    host.sh("dpkg --remove srsctl").expect_code(0);
    assert_eq!(host.processes(), [""; 0], "nothing runs of what is removed");
}
