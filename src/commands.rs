//! The commands that ask and tell: one function each.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cluster::{EncoderSource, UnitId};
use rtmp::url::Url;
use supervisor::api::Restart;
use supervisor::client::{Client, ClientError};
use supervisor::dirs::ClusterDirs;
use supervisor::orphans::{self, OrphansError};
use worker::publish::{Progress, Sent};

use crate::cli::{Global, RoleArg, resolve};
use crate::failure::{Failure, code};
use crate::{locate, output};

/// Prints what runs.
pub(crate) async fn status(global: &Global, json: bool) -> Result<ExitCode, Failure> {
    let dirs = locate::cluster(global)?;
    let status = match Client::new(dirs.clone()).status().await {
        Ok(status) => status,
        Err(error) => return Err(no_status(global, &dirs, json, error)),
    };
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&status).map_err(Failure::failed)?));
    } else {
        print(&output::status(&status));
    }
    if let Some(path) = locate::file(global.file.as_deref())
        && let (Ok(text), Ok(Some((_, in_force)))) = (std::fs::read_to_string(&path), dirs.in_force())
        && text != in_force
    {
        complain(&format!(
            "{} differs from what was last brought into force; srsctl up tells how",
            path.display()
        ));
    }
    Ok(output::exit_code(&status).into())
}

/// Prints what can be told of a cluster whose supervisor does not answer, and says why.
fn no_status(global: &Global, dirs: &ClusterDirs, json: bool, error: ClientError) -> Failure {
    let (state, failure) = match error {
        ClientError::NotRunning { .. } => match orphans::living(dirs) {
            0 => ("not-running", Failure::new(code::NOT_READY, locate::not_running(global, dirs))),
            living => {
                let failure = format!(
                    "cluster {}: no supervisor runs, but {living} processes that a killed one left do; \
                     srsctl up takes them over, srsctl down stops them",
                    dirs.name()
                );
                if !json {
                    print(&output::remnants(&orphans::remnants(dirs)));
                }
                ("unsupervised", Failure::new(code::CANNOT_TELL, failure))
            }
        },
        error => ("unknown", Failure::new(code::CANNOT_TELL, error)),
    };
    if json {
        print(&output::no_status(dirs.name(), state, &failure.to_string()));
    }
    failure
}

/// Restarts ports one after the other.
pub(crate) async fn restart(
    global: &Global,
    role: RoleArg,
    port: Option<u16>,
    host: Option<String>,
) -> Result<ExitCode, Failure> {
    let client = Client::new(locate::cluster(global)?);
    let request = Restart { role: role.into(), port, host };
    tokio::select! {
        done = client.restart(&request, complain) => done?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(
            code::INTERRUPTED,
            "interrupted: the supervisor finishes the restart; see srsctl status",
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// Stops the cluster, also one whose supervisor was killed.
pub(crate) async fn down(global: &Global, purge: bool) -> Result<ExitCode, Failure> {
    let dirs = locate::cluster(global)?;
    let asked = match Client::new(dirs.clone()).down(complain).await {
        Ok(()) => true,
        Err(ClientError::NotRunning { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if !asked {
        let report = orphans::down(&dirs, complain).await.map_err(|error| match error {
            OrphansError::Supervised { .. } => Failure::new(code::LOCKED, error),
            error => Failure::failed(error),
        })?;
        if !report.left.is_empty() {
            let left: String = report.left.iter().map(|(id, why, lock)| left_alone(id, why, lock)).collect();
            return Err(Failure::failed(format!("not all is stopped:{left}")));
        }
        if report.stopped.is_empty() {
            complain(&locate::not_running(global, &dirs));
        }
    }
    if purge {
        if !dirs.purge()? {
            let name = dirs.name();
            return Err(Failure::new(
                code::LOCKED,
                format!("cluster {name} is being started again; nothing is removed"),
            ));
        }
        complain(&format!("cluster {}: logs, generated configs and the secret are removed", dirs.name()));
    }
    Ok(ExitCode::SUCCESS)
}

fn left_alone(id: &UnitId, why: &str, lock: &Path) -> String {
    format!("\n  {id}: left alone: {why}; who holds its lock tells: fuser -v {}", lock.display())
}

/// Prints the URLs of a stream.
pub(crate) fn urls(global: &Global, stream: &str) -> Result<ExitCode, Failure> {
    let wrong = || Failure::usage(format!("{stream:?} is not APP/STREAM, such as live/livestream"));
    let key: rtmp::server::StreamKey = stream.parse().map_err(|_| wrong())?;
    if key.as_str() != stream {
        return Err(wrong());
    }
    let path = locate::file(global.file.as_deref());
    let roots = locate::roots(global)?;
    let dirs = match path.map(|path| (locate::load(&path), path)) {
        Some((Ok(loaded), _)) => {
            let dirs = roots.cluster(&loaded.cluster.name);
            locate::require_same(&loaded.path, &loaded.text, &dirs)?;
            print(&output::urls(&loaded.cluster, key.as_str()));
            return Ok(ExitCode::SUCCESS);
        }
        Some((Err(error), path)) => locate::instead_of(&path, &roots, error)?,
        None => locate::cluster(global)?,
    };
    let (path, text) = dirs.in_force()?.ok_or_else(|| {
        Failure::failed(format!("cluster {} has no file in force; name it: -f FILE", dirs.name()))
    })?;
    let (cluster, _) = cluster::file::parse(text.into_bytes(), &path, &resolve)?;
    print(&output::urls(&cluster, key.as_str()));
    Ok(ExitCode::SUCCESS)
}

/// Checks a file.
pub(crate) fn check(global: &Global, path: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let path = locate::required_file(path.as_deref().or(global.file.as_deref()))?;
    let cluster = locate::load(&path)?.cluster;
    for problem in supervisor::preflight::check(&cluster, &[]) {
        complain(&format!("{}: srsctl up would refuse it on this machine: {problem}", path.display()));
    }
    let (origins, hosts) = (cluster.origins.iter().map(ToString::to_string), cluster::hosts(&cluster.edges));
    print(&format!(
        "{}: ok: cluster {}, origin {}, {} edge ports on {} {}\n",
        path.display(),
        cluster.name,
        origins.collect::<Vec<_>>().join(", "),
        cluster.edges.len(),
        hosts.len(),
        if hosts.len() == 1 { "host" } else { "hosts" },
    ));
    Ok(ExitCode::SUCCESS)
}

/// Plays until the first keyframe.
pub(crate) async fn probe(url: &str, timeout: u64) -> Result<ExitCode, Failure> {
    let _: Url = url.parse().map_err(Failure::usage)?;
    let report = supervisor::probe::play(url, Duration::from_secs(timeout)).await.map_err(Failure::failed)?;
    let codecs: Vec<_> =
        [&report.video_codec, &report.audio_codec].into_iter().flatten().map(String::as_str).collect();
    print(&format!(
        "{}: keyframe after {} (TCP {}, RTMP connect {}), {}\n",
        report.url,
        output::delay(report.keyframe),
        output::delay(report.tcp),
        output::delay(report.rtmp),
        codecs.join("+"),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Publishes until stopped.
pub(crate) async fn publish(test_card: bool, mut args: Vec<String>) -> Result<ExitCode, Failure> {
    let url = args.pop().unwrap_or_default();
    let source = match (test_card, args.pop()) {
        (true, None) => EncoderSource::TestCard,
        (false, Some(file)) => EncoderSource::File(file.into()),
        (true, Some(_)) => {
            return Err(Failure::usage("either a file or --test-card, not both; see srsctl publish --help"));
        }
        (false, None) if !url.contains("://") => {
            return Err(Failure::usage(format!(
                "where to? srsctl publish {url} rtmp://HOST[:PORT]/APP/STREAM"
            )));
        }
        (false, None) => {
            return Err(Failure::usage(
                "what to publish? srsctl publish FILE.flv URL, or srsctl publish --test-card URL",
            ));
        }
    };
    let url: Url = url.parse().map_err(Failure::usage)?;
    let mut progress = |progress: Progress<'_>| match progress {
        Progress::Publishing => complain(&format!("publishing to {url}")),
        Progress::Retrying(error, delay) => {
            complain(&format!(
                "{url}: not publishing: {error}; trying again in {}",
                output::duration(millis(delay))
            ));
        }
        Progress::Looping(true) => complain("the file ends within a tag; starting over"),
        Progress::Looping(false) => {}
    };
    let sent = Sent::default();
    tokio::select! {
        ended = worker::publish::publish(&source, &url, &sent, &mut progress) => ended.map_err(Failure::failed)?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a line to stderr; nobody is there to be told when that fails.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes to stdout; a reader that has gone away (`| head`) is no error.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
