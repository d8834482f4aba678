//! What the decisions ask of it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cluster::events::{By, Happening, Kind};
use cluster::plan::HostPart;
use cluster::status::{self, Status};
use cluster::{Cluster, Port, ProcessSpec, UnitId, WorkerSpec};
use control::api::{Apply, Upgraded};
use control::fds::{self};
use control::{AskError, Code, Error, Request};

use crate::exec::adopt::{self, Found};
use crate::exec::listeners;
use crate::exec::monitor::Message;
use crate::exec::process::Spawner;
use crate::exec::record::Departing;
use crate::exec::self_check;
use crate::exec::strays;
use crate::host::files::{FileId, write_atomic};
use crate::host::last_words::last_words;
use crate::host::{history, preflight, procfs};
use crate::machine::keeper::Halt;
use crate::machine::state::{Event, STOP_STEP};
use crate::probe;
use crate::reconcile::events::{BEFORE, WOKEN, of_cluster, of_unit};
use crate::reconcile::kernel::{
    Answer, Client, Input, Instance, Kernel, OnRecord, Program, Ticket, Unplayed, What,
};

use super::{CONFIGURE_LIMIT, Processes, config_text};

impl Kernel for Processes {
    fn random(&mut self) -> f64 {
        crate::exec::monitor::random()
    }

    fn spawn(
        &mut self,
        spec: &ProcessSpec,
        port: Option<&Port>,
        instance: Instance,
    ) -> Result<(u32, Instant), Event> {
        self.reserve.clear();
        let spawned = self.try_spawn(spec, port);
        self.fill_reserve();
        let (process, log_length) = spawned?;
        let (pid, now) = (process.0.identity().pid, Instant::now());
        tracing::info!(unit = %spec.id(), pid, "started");
        self.watch(spec.id(), port, process, false, log_length, instance);
        Ok((pid, now))
    }

    fn adopt(&mut self, unit: &UnitId, port: Option<&Port>, instance: Instance) {
        let held = self.held(unit);
        let Some((process, listener, record)) = held.found.take() else { return };
        if let Some(port) = port {
            let bound = listener.filter(|listener| listeners::is_bound_to(listener, port));
            let held = held.listener.take();
            self.hold(unit, bound.or(held));
        }
        let has_listener = self.held(unit).listener.is_some();
        tracing::info!(%unit, pid = process.identity().pid, listener = has_listener, "adopted");
        // The end of an adopted process is not told, and so neither what it said of it.
        self.watch(unit, port, (process, record), true, 0, instance);
    }

    fn ask_stop(&mut self, unit: &UnitId) {
        let Some(held) = self.held.get(unit) else { return };
        let Some(live) = &held.live else { return };
        let (unit, instance, reach) = (unit.clone(), live.instance, held.reach());
        let messages = self.messages.clone();
        self.helpers.spawn(async move {
            if let Err(error) = reach.ask(&Request::Stop, None, STOP_STEP).await {
                tracing::info!(%unit, %error, "could not be asked to stop");
                let what = What::Event(Event::AskFailed);
                let _ = messages.send(Message::Input(Input::Process { unit, instance, what })).await;
            }
        });
    }

    fn terminate(&mut self, unit: &UnitId) {
        if let Some(live) = self.live(unit) {
            live.process.terminate();
        }
    }

    fn kill(&mut self, unit: &UnitId) {
        if let Some(live) = self.live(unit) {
            live.process.kill();
        }
    }

    fn forget(&mut self, unit: &UnitId) {
        let held = self.held(unit);
        held.live = None;
        held.files.forget();
    }

    fn refresh(&mut self, unit: &UnitId) {
        if let Some(live) = self.live(unit) {
            live.refresh.notify_one();
        }
    }

    fn look(&mut self, unit: &UnitId) {
        let (files, boot_id) = (self.held(unit).files.clone(), self.remembered.boot_id.clone());
        let (unit, messages) = (unit.clone(), self.messages.clone());
        let stray = strays::find(&self.dirs).remove(&unit);
        self.helpers.spawn(async move {
            let found = adopt::find(&unit, &files, stray, &boot_id).await;
            let found = found.unwrap_or_else(|error| Found::Unknown { why: error.to_string() });
            let _ = messages.send(Message::Found(unit, found)).await;
        });
    }

    fn close_port(&mut self, unit: &UnitId) {
        self.close_listener(unit);
    }

    fn remove(&mut self, unit: &UnitId, wanted: bool) {
        self.close_listener(unit);
        self.held(unit).files.remove();
        self.held.remove(unit);
        if !wanted {
            let _ = std::fs::remove_file(self.dirs.config(unit));
        }
    }

    fn note_departure(&mut self, unit: &UnitId, departure: Option<OnRecord>) {
        let departing = departure.map(|OnRecord { left, limit, consent }| {
            let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Departing { until_ms: ms(procfs::since_boot() + left), limit_ms: ms(limit), consent }
        });
        if let Err(error) = self.held(unit).files.note_departure(departing) {
            // The next supervisor disconnects nobody then who was not asked for.
            tracing::warn!(%unit, %error, "that it leaves is not written down");
        }
    }

    fn parse(&mut self, ticket: Ticket, file: &Apply) {
        let parsed = self.read(file);
        self.answer(ticket, async move { Answer::Parsed(parsed.await) });
    }

    fn prepare(&mut self, new: &Cluster, added: &[&Port]) -> Result<(), String> {
        let specs: Vec<_> = new.ports().map(|port| new.worker_spec(port, self.dirs.secret())).collect();
        let problems = preflight::check(new, &specs);
        let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let bound = listeners::bind_all(added.iter().copied());
        problems.extend(bound.as_ref().err().into_iter().flatten().map(ToString::to_string));
        match bound {
            Ok(bound) if problems.is_empty() => {
                for (unit, listener) in bound {
                    self.hold(&unit, Some(listener));
                }
                Ok(())
            }
            Ok(_) | Err(_) => Err(problems.join("\n  ")),
        }
    }

    fn write_config(&mut self, spec: &ProcessSpec) -> Result<(), String> {
        let path = self.dirs.config(spec.id());
        let text = config_text(spec);
        write_atomic(&path, text.as_bytes()).map_err(|error| error.to_string())?;
        self.held(spec.id()).config = Some(text);
        Ok(())
    }

    fn put_in_force(&mut self, file: &Apply, by: Option<By>, what: String) -> Result<u64, String> {
        let new = history::New { file, by, what };
        let number =
            history::put_in_force(&self.dirs, new, SystemTime::now()).map_err(|error| error.to_string())?;
        self.remembered.in_force = file.clone();
        Ok(number)
    }

    fn configure(&mut self, ticket: Ticket, spec: &WorkerSpec) {
        let process = self.live(&spec.id).map(|live| Arc::clone(&live.process));
        let reach = self.held(&spec.id).reach();
        let spec = spec.clone();
        self.answer(ticket, async move {
            let told = async {
                let process = process.ok_or_else(|| "it has just ended".to_owned())?;
                process.raise_fd_limit(spec.fds_needed()).map_err(|error| error.to_string())?;
                let request = Request::Configure { spec: Box::new(spec) };
                let asked = reach.ask(&request, None, CONFIGURE_LIMIT).await;
                asked.map(drop).map_err(|error| error.to_string())
            };
            Answer::Configured(told.await)
        });
    }

    fn examine(&mut self, ticket: Ticket, program: &Program, units: &[UnitId]) {
        let path = match program {
            Program::At(path) => {
                self.upgrade = Spawner::open(path).ok().map(|program| (path.clone(), program));
                path.clone()
            }
            Program::OfStart | Program::Before => self.spawner.program_path(),
        };
        let keeper = |unit: &UnitId| Some((unit.clone(), self.live(unit)?.process.identity().pid));
        let keepers: Vec<_> = units.iter().filter_map(keeper).collect();
        let examined = tokio::task::spawn_blocking(move || {
            self_check::examine(&path, keepers)
                .map_err(|why| format!("{} cannot be used: {why}", path.display()))
        });
        self.answer(ticket, async move {
            Answer::Examined(examined.await.unwrap_or_else(|error| Err(error.to_string())))
        });
    }

    fn renew(&mut self, ticket: Ticket, spec: &WorkerSpec, program: &Program) {
        let failed = |why: String| Error::new(Code::Failed, why);
        let process = self.live(&spec.id).map(|live| Arc::clone(&live.process));
        let program = match program {
            Program::OfStart => self.spawner.program(),
            Program::At(path) => {
                let length = std::fs::metadata(self.dirs.log(&spec.id)).map_or(0, |log| log.len());
                self.held(&spec.id).log_before = length;
                // Whatever becomes of its file.
                self.held(&spec.id).before = process.as_ref().and_then(|process| process.program().ok());
                self.of_upgrade(path).map_or_else(|| Spawner::open(path), OwnedFd::try_clone)
            }
            Program::Before => {
                let before = self.held(&spec.id).before.as_ref().map(OwnedFd::try_clone);
                before.unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into()))
            }
        };
        let config = fds::in_memory(fds::CONFIG, spec.to_file_text().as_bytes());
        let (reach, needed) = (self.held(&spec.id).reach(), spec.fds_needed());
        // Nobody else can start the next worker.
        let keeper = process.as_ref().map(|process| process.identity().pid);
        let halt = process.as_ref().and_then(|process| process.wake());
        if halt == Some(Halt::Stopped) {
            self.record(of_unit(Kind::Woken, &spec.id, keeper, WOKEN));
        }
        self.answer(ticket, async move {
            let told = async {
                let process = process.ok_or_else(|| failed("it has just ended".to_owned()))?;
                if halt == Some(Halt::Traced) {
                    let why = format!("a debugger holds its keeper (pid {})", process.identity().pid);
                    return Err(Error::new(Code::Unsupported, why));
                }
                let (program, config) = (
                    program.map_err(|error| failed(format!("the program cannot be opened: {error}")))?,
                    config.map_err(|error| failed(format!("no memory: {error}")))?,
                );
                process.raise_fd_limit(needed).map_err(|error| failed(error.to_string()))?;
                let fds = [program.as_fd(), config.as_fd()];
                match reach.ask_with(&Request::Renew, &fds, CONFIGURE_LIMIT).await {
                    Ok(_) => Ok(()),
                    Err(AskError::Refused(error)) => Err(error),
                    Err(error) => Err(failed(error.to_string())),
                }
            };
            Answer::Renewed(told.await)
        });
    }

    fn is_running(&mut self, unit: &UnitId, program: &Program) -> bool {
        let Some(held) = self.held.get(unit) else { return false };
        let path = match program {
            Program::At(path) => self.of_upgrade(path).map_or_else(|| path.clone(), fds::path_of),
            Program::OfStart => self.spawner.program_path(),
            Program::Before => match &held.before {
                Some(before) => fds::path_of(before),
                None => return false,
            },
        };
        held.live.as_ref().is_some_and(|live| live.process.is_running(&path))
    }

    fn start_next(&mut self, unit: &UnitId, program: &Program) {
        let program = match program {
            Program::At(path) => self.of_upgrade(path).and_then(|program| program.try_clone().ok()),
            Program::OfStart | Program::Before => None,
        };
        self.held(unit).next = program;
    }

    fn is_in_place(&mut self, path: &Path) -> bool {
        let file = FileId::behind(path);
        file.is_some()
            && self.of_upgrade(path).is_none_or(|begun| FileId::behind(&fds::path_of(begun)) == file)
    }

    fn program(&self, unit: &UnitId) -> Option<status::Program> {
        let (path, file) = self.live(unit)?.process.runs()?;
        let (replaced, next) = (FileId::behind(&path) != Some(file), self.spawner.next() == Some(file));
        Some(status::Program { path: path.display().to_string(), replaced, next })
    }

    fn next_program(&self) -> (PathBuf, bool) {
        let path = self.spawner.next_path();
        let is_there = path.exists();
        (path, is_there)
    }

    fn last_words(&self, unit: &UnitId) -> Option<String> {
        last_words(&self.dirs.log(unit), self.held.get(unit)?.log_before)
    }

    fn install(&mut self, program: &Path) {
        tracing::info!(program = %program.display(), "every start runs it from now on");
        let text = format!("every start runs {} from now on", program.display());
        self.record(of_cluster(Kind::Program, None, text));
        self.spawner.install(program.to_owned());
    }

    fn play(&mut self, ticket: Ticket, url: &str, limit: Duration) {
        let url = url.to_owned();
        self.answer(ticket, async move {
            let played = probe::play(&url, limit).await;
            Answer::Played(
                played
                    .map(drop)
                    .map_err(|error| Unplayed { why: error.to_string(), is_full: error.is_full() }),
            )
        });
    }

    fn record(&mut self, event: Happening) {
        // The supervisor before has told of it, if it saw that.
        if event.text.starts_with(BEFORE) && self.journal.has_worker(&event) {
            return;
        }
        self.journal.add(SystemTime::now(), event);
    }

    fn say(&mut self, client: Option<Client>, line: String) {
        tracing::info!("{line}");
        if let Some(reply) = client.and_then(|client| self.clients.get(&client)) {
            reply.say(line);
        }
    }

    fn report(&mut self, client: Option<Client>, upgraded: Upgraded) {
        if let Some(reply) = client.and_then(|client| self.clients.get(&client)) {
            reply.report(upgraded);
        }
    }

    fn finish(&mut self, client: Option<Client>, outcome: Result<(), Error>) {
        if let Err(error) = &outcome {
            tracing::warn!("{error}");
        }
        if let Some(reply) = client.and_then(|client| self.clients.remove(&client)) {
            reply.finish(outcome);
        }
    }

    fn show(&mut self, client: Client, status: Status) {
        if let Some(reply) = self.clients.remove(&client) {
            reply.show(status);
        }
    }

    fn show_plan(&mut self, client: Client, plan: Result<HostPart, Error>) {
        if let Some(reply) = self.clients.remove(&client) {
            reply.show_plan(plan);
        }
    }

    fn take_down(&mut self) {
        self.dirs.stay_down();
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.dirs.remove_agent_socket();
        let all: Vec<UnitId> = self.held.keys().cloned().collect();
        all.iter().for_each(|unit| self.close_listener(unit));
    }

    fn remove_run(&mut self) -> Result<(), String> {
        self.dirs.remove_run().map_err(|error| error.to_string())
    }
}
