//! Directories as others may have left them.

use super::*;

fn dirs(temporary: &tempfile::TempDir) -> ClusterDirs {
    StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live")
}

#[test]
fn a_state_directory_holds_run_and_lib() {
    let roots = StateRoots::resolve(Some(Path::new("/x/y"))).unwrap();
    assert_eq!(roots.cluster("live").run(), Path::new("/x/y/run/live"));
    assert_eq!(roots.cluster("live").lib(), Path::new("/x/y/lib/live"));
}

#[test]
fn directories_and_secrets_are_private() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = dirs(&temporary);
    dirs.create().unwrap().keep();
    dirs.ensure_secret(|| None).unwrap();
    assert_eq!(fs::metadata(dirs.run()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(dirs.lib().join("log")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(dirs.secret()).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_directory_in_which_others_may_write_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = dirs(&temporary);
    fs::create_dir_all(dirs.lib().join("conf")).unwrap();
    fs::set_permissions(dirs.lib().join("conf"), fs::Permissions::from_mode(0o770)).unwrap();
    let error = dirs.create().unwrap_err().to_string();
    assert!(error.contains("lib/live/conf: others may write there"), "{error}");
    fs::set_permissions(dirs.lib().join("conf"), fs::Permissions::from_mode(0o750)).unwrap();
    dirs.create().unwrap().keep();
}

#[test]
fn a_link_is_not_followed_to_what_would_be_overwritten() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = dirs(&temporary);
    dirs.create().unwrap().keep();
    let other = temporary.path().join("other");
    fs::write(&other, "text").unwrap();
    std::os::unix::fs::symlink(&other, dirs.lib().join("secret.tmp")).unwrap();
    assert!(dirs.ensure_secret(|| None).is_err());
    assert_eq!(fs::read_to_string(other).unwrap(), "text");
}

#[test]
fn the_secret_is_created_once_and_64_hex_digits() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = dirs(&temporary);
    dirs.create().unwrap().keep();
    let first = dirs.ensure_secret(|| None).unwrap();
    assert_eq!(first.trim().len(), 64);
    assert!(first.trim().bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(fs::read_to_string(dirs.secret()).unwrap(), first);
    assert_eq!(dirs.ensure_secret(|| Some("x".repeat(64))).unwrap(), first);
    fs::remove_file(dirs.secret()).unwrap();
    assert_eq!(dirs.ensure_secret(|| Some(first.clone())).unwrap(), first, "workers run with it");
}

#[test]
fn what_was_created_goes_again_unless_kept() {
    let temporary = tempfile::tempdir().unwrap();
    drop(dirs(&temporary).create().unwrap());
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_was_there_before_stays() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = dirs(&temporary);
    dirs.create().unwrap().keep();
    drop(dirs.create().unwrap());
    assert!(dirs.units().is_dir());
}

#[test]
fn a_lock_is_held_by_one_and_shows_in_the_list_of_running_clusters() {
    let temporary = tempfile::tempdir().unwrap();
    let roots = StateRoots::resolve(Some(temporary.path())).unwrap();
    let dirs = roots.cluster("live");
    dirs.create().unwrap().keep();
    roots.cluster("other").create().unwrap().keep();
    assert!(roots.running().is_empty());
    let lock = dirs.lock().unwrap();
    assert!(lock.is_some());
    assert!(dirs.lock().unwrap().is_none());
    assert_eq!(roots.running(), ["live"]);
    assert_eq!(dirs.supervisor_pid(), Some(std::process::id()));
    drop(lock);
    assert!(roots.running().is_empty());
    assert_eq!(roots.known(), ["live", "other"]);
}

#[test]
fn purge_leaves_a_cluster_that_runs_alone_and_nothing_of_one_that_does_not() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = dirs(&temporary);
    dirs.create().unwrap().keep();
    dirs.ensure_secret(|| None).unwrap();
    let lock = dirs.lock().unwrap().unwrap();
    assert!(!dirs.purge().unwrap());
    assert!(dirs.secret().exists() && dirs.is_supervised());
    drop(lock);
    assert!(dirs.purge().unwrap());
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    assert!(dirs.purge().unwrap(), "nothing to remove is no error");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_file_where_a_directory_should_be_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    fs::write(temporary.path().join("run"), "").unwrap();
    let error = dirs(&temporary).create().unwrap_err().to_string();
    assert!(error.contains("run") && error.contains("--state-dir"), "{error}");
}

#[test]
fn the_file_in_force_comes_back_with_its_path() {
    let temporary = tempfile::tempdir().unwrap();
    let dirs = dirs(&temporary);
    assert!(dirs.in_force().unwrap().is_none());
    dirs.create().unwrap().keep();
    dirs.put_in_force(Path::new("/etc/c.yaml"), "a: 1\n", &[]).unwrap();
    assert_eq!(dirs.in_force().unwrap(), Some(("/etc/c.yaml".into(), "a: 1\n".to_owned())));
    for hosts in [&["192.168.1.6".to_owned(), "edge-7".to_owned()][..], &[]] {
        dirs.put_in_force(Path::new("/etc/c.yaml"), "a: 1\n", hosts).unwrap();
        assert_eq!(dirs.hosts_in_force().unwrap(), hosts);
    }
}
