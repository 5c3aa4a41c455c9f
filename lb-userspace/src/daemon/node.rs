//! One running node: the event loop, and the execution of what the engine asks for.

use super::analytics::Traffic;
use super::deployment::{Unconfirmed, until_confirmed};
use super::drains::Drains;
use super::events::Journal;
use super::interfaces::Interfaces;
use super::objects::Objects;
use super::preview::Previews;
use super::setup::{self, Lock};
use super::sweeps::Counting;
use super::takeover::{self, Former};
use super::tracer::Tracer;
use super::unwritten::Unwritten;
use super::watch::FileWatch;
use super::ways::ProbeWays;
use crate::api::{Handle, Listeners, Request, Server};
use crate::cli::{Exit, Failure};
use crate::config::Loaded;
use crate::datapath::explain::Explainer;
use crate::datapath::flows::{FlowCounts, FlowTables};
use crate::datapath::held::{self, HeldCounts};
use crate::datapath::kernel::Datapath;
use crate::datapath::pins::Pins;
use crate::net::addresses::AddressWatch;
use crate::net::links::LinkWatch;
use crate::net::paths::{self, PathWatcher};
use crate::notify::Notifier;
use crate::probe::{self, Probes};
use crate::resolve::Resolver;
use crate::store::{Saver, Store};
use anyhow::{Context, Result};
use lb_common::abi::{OriginId, OriginState, SettingsFlags};
use lb_core::engine::{
    Command, Engine, Environment, Event, Kept, NameRecord, Path, ProbeRequest, SessionMoves,
};
use lb_core::health::FailureReason;
use lb_core::image::TableOp;
use lb_core::model::{Config, OnExit};
use lb_core::time::Timestamp;
use lb_core::view::View;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Time between two comparisons of the maps with what they should hold.
const REPAIR: Duration = Duration::from_secs(30);
/// How long the start waits for neighbours to answer.
const FIRST_PATHS: Duration = Duration::from_secs(1);
/// How long what is going on may take when another process takes over.
const HANDOVER: Duration = Duration::from_secs(5);
/// How often it is looked whether fragments are held still.
const HELD_LOOK: Duration = Duration::from_millis(10);

/// Who has the node while a daemon starts.
enum Claim {
    /// This one, from now on.
    Free(Server, Lock),
    /// Another one, which is to leave.
    Held(Former, Listeners),
}

/// A running node.
pub struct Node {
    pub(super) config_path: PathBuf,
    /// Interfaces from the command line, which replace those of the file.
    pub(super) overrides: Vec<String>,
    pub(super) config: Arc<Config>,
    pub(super) objects: Objects,
    /// What goes back unless somebody confirms it.
    pub(super) unconfirmed: Option<Unconfirmed>,
    pub(super) engine: Engine,
    pub(super) datapath: Datapath,
    pub(super) explainer: Explainer,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) counts: FlowCounts,
    /// How often they have been counted.
    pub(super) flow_counts: u64,
    pub(super) held: Arc<HeldCounts>,
    /// Read and swept by threads that may block.
    pub(super) flows: Arc<Mutex<FlowTables>>,
    pub(super) sweeps: mpsc::Sender<Result<FlowCounts>>,
    swept: mpsc::Receiver<Result<FlowCounts>>,
    /// `None` while one is going on.
    pub(super) next_sweep: Option<tokio::time::Instant>,
    pub(super) sweep_started: Instant,
    pub(super) counting: Counting,
    pub(super) moves: Arc<SessionMoves>,
    pub(super) drains: Drains,
    pub(super) tracer: Tracer,
    /// Whether a step of the writer has failed since everything was written.
    unwritten: Option<Unwritten>,
    pub(super) journal: Journal,
    pub(super) notifier: Notifier,
    pub(super) traffic: Traffic,
    pub(super) started: Instant,
    /// Why the last configuration was refused, for the answer to a reload.
    pub(super) refusal: Option<String>,
    saver: Option<Saver>,
    pub(super) probes: Arc<Probes>,
    pub(super) previews: Previews,
    pub(super) ways: ProbeWays,
    observations: mpsc::UnboundedSender<Event>,
    observed: mpsc::UnboundedReceiver<Event>,
    pub(super) resolver: Resolver,
    pub(super) paths: PathWatcher,
    pub(super) interfaces: Interfaces,
    links: LinkWatch,
    addresses: AddressWatch,
    /// What the interfaces need of the packet path.
    pub(super) flags: SettingsFlags,
    pub(super) path_changes: mpsc::Receiver<BTreeMap<IpAddr, Path>>,
    requests: mpsc::Receiver<Request>,
    /// Where the API listens on TCP.
    pub(super) listen: Vec<SocketAddr>,
    pub(super) file: Option<FileWatch>,
    stop: CancellationToken,
    /// Cancelled once another process may have the API's addresses.
    closed: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    lock: Option<Lock>,
    /// Another process takes over: it leaves everything to that.
    pub(super) handed_over: bool,
}

impl Node {
    /// Brings everything up: the program is attached and the first configuration is in force when it returns.
    ///
    /// # Errors
    /// As [`super::run`].
    pub async fn start(
        config_path: PathBuf,
        loaded: Loaded,
        overrides: Vec<String>,
        take_over: bool,
    ) -> Result<Self, Failure> {
        let mut objects = Objects::new(&loaded);
        let mut config = loaded.config;
        if !overrides.is_empty() {
            config.datapath.interfaces.clone_from(&overrides);
        }
        // What is in force: the file with the objects of the API.
        let whole = |objects: &mut Objects| {
            let mut whole = objects.configuration(&config);
            whole.datapath.interfaces.clone_from(&config.datapath.interfaces);
            Arc::new(whole)
        };
        // Before the interfaces are looked at, so that no change is missed.
        let links = LinkWatch::new()?;
        let addresses = AddressWatch::start()?;
        let interfaces = Interfaces::find(&config)?;
        setup::check_machine(&config, &interfaces.names()).await?;
        interfaces.warn_of_unattached(None);
        let flags = interfaces.flags();
        let former = match take_over {
            true => Former::find(&config).await?,
            false => None,
        };
        // What can fail without a trace comes before what leaves one, and before another daemon leaves.
        let (claim, mut datapath) = match former {
            None => {
                let server = Server::bind(&config.api)?;
                let (pins, lock) = setup::claim(&config.node.name)?;
                objects.open(&config.node.state_dir);
                let sizes = setup::sizes(&whole(&mut objects));
                let datapath = Datapath::open(pins, sizes).map_err(setup::cannot_open)?;
                (Claim::Free(server, lock), datapath)
            }
            Some(former) => {
                let listeners =
                    Listeners::bind_beside(&config.api, former.listen()).map_err(takeover::unchanged)?;
                let pins = Pins::open(&config.node.name)?;
                objects.take(&former.objects().await?);
                let rehearsed = whole(&mut objects);
                let sizes = setup::sizes(&rehearsed);
                let datapath = Datapath::open(pins, sizes).map_err(takeover::cannot_open)?;
                takeover::rehearse(setup::environment(&datapath, flags)?, &rehearsed)?;
                (Claim::Held(former, listeners), datapath)
            }
        };
        let named = interfaces.named();
        let indexes: Vec<u32> = named.iter().map(|(_, index)| *index).collect();
        let (paths, path_changes) = PathWatcher::start(indexes.clone()).await?;
        let explainer = Explainer::new(&datapath)?;
        let tracer = Tracer::new(datapath.tracing()?);
        let flows = Arc::new(Mutex::new(datapath.flow_tables()?));
        let probes = Arc::new(Probes::new()?);
        // Before the first packet that the program may hand over.
        let held = datapath
            .holding()
            .and_then(held::start)
            .unwrap_or_else(|error| {
                warn!(error = %format!("{error:#}"), "fragments that come before the first one of their datagram are lost");
                Arc::default()
            });
        let (server, lock) = match claim {
            Claim::Free(server, lock) => (server, lock),
            Claim::Held(former, listeners) => {
                let (_, lock) = former.hand_over(&config.node.name).await?;
                if !datapath.is_current()? {
                    let message = "the maps were made anew meanwhile: start again";
                    return Err(Failure::new(Exit::Conflict, message));
                }
                datapath.renew_writer()?;
                objects.open(&config.node.state_dir);
                (Server::succeed(&config.api, listeners)?, lock)
            }
        };
        let config = whole(&mut objects);
        let listen = server.tcp_addresses();
        let migrates = datapath.is_migrating();
        let flags = match migrates {
            true => SettingsFlags(flags.0 | SettingsFlags::MIGRATING),
            false => flags,
        };
        let store = open_store(&config);
        let mut journal = Journal::new();
        journal.open(&config.node.state_dir, config.history);
        let environment = Environment {
            kept: store.as_ref().map_or_else(Kept::default, |store| {
                store.load().unwrap_or_else(|error| {
                    warn!(error = %format!("{error:#}"), "health from before cannot be restored");
                    Kept::default()
                })
            }),
            ..setup::environment(&datapath, flags)?
        };
        let started = Instant::now();
        let engine = Engine::new(environment, Timestamp::default());
        if !migrates {
            datapath.attach(&named, config.datapath.mode)?;
        }
        let (view, views) = watch::channel(Arc::new(View::default()));
        let (sender, requests) = mpsc::channel(64);
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let handle = Handle {
            view: views,
            catalog: objects.watch(),
            requests: sender,
        };
        let server = tokio::spawn(server.serve(handle, stop.clone(), closed.clone()));
        let (observations, observed) = mpsc::unbounded_channel();
        let resolver = Resolver::new(&config.dns, observations.clone());
        let (sweeps, swept) = mpsc::channel(1);
        let counting = Counting::new(&datapath)?;
        let file = FileWatch::new(&config_path)
            .inspect_err(|error| warn!(error = %format!("{error:#}"), "changes of the file are not noticed"));
        let mut node = Self {
            config_path,
            overrides,
            config,
            objects,
            unconfirmed: None,
            engine,
            datapath,
            explainer,
            view,
            counts: FlowCounts::default(),
            flow_counts: 0,
            held,
            flows,
            sweeps,
            swept,
            next_sweep: Some(tokio::time::Instant::now()),
            sweep_started: started,
            counting,
            moves: Arc::default(),
            drains: Drains::default(),
            tracer,
            unwritten: None,
            journal,
            notifier: Notifier::new(Arc::clone(&probes)),
            traffic: Traffic::default(),
            started,
            refusal: None,
            saver: store.map(Saver::start),
            probes,
            previews: Previews::default(),
            ways: ProbeWays::default(),
            observations,
            observed,
            resolver,
            paths,
            interfaces,
            links,
            addresses,
            flags,
            path_changes,
            requests,
            listen,
            file: file.ok(),
            stop,
            closed,
            server,
            lock: Some(lock),
            handed_over: false,
        };
        node.follow_addresses();
        let mtus = node.interfaces.mtus();
        node.tell(Event::Interfaces(mtus));
        let config = node.config.clone();
        node.tell(Event::Configure(config));
        if let Some(refusal) = node.refusal.take() {
            return Err(anyhow::anyhow!(refusal).into());
        }
        // A daemon that was killed while somebody traced has left the program at it.
        node.tell(Event::Trace(0));
        if migrates {
            // The new program must know how to go on with every flow when the first packet comes.
            node.find_paths().await;
            node.take_flows_over(&named)?;
        } else {
            node.datapath.keep();
            node.leave(&indexes);
            node.find_paths().await;
        }
        node.resume_notices();
        if let Some(problem) = node.objects.problem() {
            node.record_store(problem);
        }
        node.resume_deployment().await;
        info!(node = node.config.node.name, "running");
        Ok(node)
    }

    /// Puts the program in the place of one with another layout, and takes its flows over.
    fn take_flows_over(&mut self, interfaces: &[(String, u32)]) -> Result<()> {
        self.datapath.copy_flows()?;
        // From here on a packet may rely on the new maps.
        self.datapath.keep();
        self.datapath.attach(interfaces, self.config.datapath.mode)?;
        self.datapath.finish_migration()?;
        let keep: Vec<u32> = interfaces.iter().map(|(_, index)| *index).collect();
        self.leave(&keep);
        self.set_flags(self.interfaces.flags());
        Ok(())
    }

    /// Waits a moment for the neighbours to answer, so that the first client is not the one to wait for them.
    async fn find_paths(&mut self) {
        let deadline = tokio::time::Instant::now() + FIRST_PATHS;
        while let Ok(Some(paths)) = timeout_at(deadline, self.path_changes.recv()).await {
            let resolved = !paths
                .values()
                .any(|path| matches!(path, Path::Via { neighbour: None, .. }));
            self.tell(Event::Paths(paths));
            if resolved {
                break;
            }
        }
    }

    /// Handles events until a signal says to stop.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub async fn run(&mut self) -> Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("receive SIGHUP")?;
        let mut terminate = signal(SignalKind::terminate()).context("receive SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("receive SIGINT")?;
        let mut repair = interval(REPAIR);
        repair.set_missed_tick_behavior(MissedTickBehavior::Delay);
        repair.reset();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(event) = self.observed.recv() => self.tell(event),
                () = self.links.changed() => self.follow_interfaces(),
                Ok(()) = self.addresses.changed() => self.follow_addresses(),
                Some(paths) = self.path_changes.recv() => self.tell(Event::Paths(paths)),
                () = sleep_until(deadline) => self.tell(Event::Tick),
                committed = self.objects.committed() => self.settle(&committed),
                news = self.journal.news() => self.settle_history(news),
                news = self.notifier.news() => self.settle_notice(news),
                Some(request) = self.requests.recv() => self.answer(request).await,
                _ = hangup.recv() => drop(self.reload("SIGHUP").await),
                () = changed(&mut self.file) => drop(self.reload("the file has changed").await),
                () = until(self.next_sweep) => self.start_sweep(),
                Some(result) = self.swept.recv() => self.end_sweep(result),
                () = until(self.counting.next) => self.start_count(),
                Some(result) = self.counting.done.recv() => self.end_count(result),
                _ = repair.tick() => self.repair(),
                () = until_confirmed(&self.unconfirmed) => self.expire(),
                () = until(self.tracer.due) => self.refresh_trace(),
            }
            if self.handed_over {
                break;
            }
        }
        Ok(())
    }

    fn deadline(&self) -> tokio::time::Instant {
        let deadline = self
            .engine
            .next_deadline()
            .map_or(Duration::from_secs(3600), |deadline| deadline.0);
        (self.started + deadline).into()
    }

    /// Ends: forwarding goes on by the pinned program, or everything is removed, as the configuration says.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn stop(mut self) -> Result<(), Failure> {
        info!("stopping");
        self.end_trace();
        self.leave_unconfirmed();
        self.close_store().await;
        self.close_history().await;
        self.stop.cancel();
        if self.handed_over {
            self.leave_to_another().await;
        }
        // The server removes its socket; what else could go wrong there ends with the process.
        let _ = (&mut self.server).await;
        if self.handed_over {
            self.see_fragments_off().await;
        }
        if self.config.datapath.on_exit == OnExit::Detach && !self.handed_over {
            self.paths.release().await?;
            self.datapath.remove()?;
            info!("detached");
        }
        Ok(())
    }

    /// Gives the node up once nothing of this process writes to the maps or the disk any more.
    async fn leave_to_another(&mut self) {
        if self.next_sweep.is_none() {
            // What a sweep removes is counted by one process at a time, and what it has seen is not written when the other has
            // unsettled buckets; one that takes longer is not waited for.
            let _ = timeout(HANDOVER, self.swept.recv()).await;
        }
        let _ = timeout(HANDOVER, self.closed.cancelled()).await;
        self.saver = None;
        self.ways = ProbeWays::default();
        self.lock = None;
        info!("handed over: another lb goes on");
    }

    /// Holds fragments until the other's program is there, and then until those that wait have gone or waited too long.
    async fn see_fragments_off(&mut self) {
        let deadline = Instant::now() + held::LIMITS.patience;
        while (self.datapath.is_attached() || self.held.waiting() > 0) && Instant::now() < deadline {
            tokio::time::sleep(HELD_LOOK).await;
        }
    }

    /// The addresses of origins' host names.
    pub(super) fn known_names(&self) -> Vec<NameRecord> {
        self.engine.known_names()
    }

    /// Tells the engine what has happened and does what it asks for.
    pub(super) fn tell(&mut self, event: Event) {
        let now = Timestamp(self.started.elapsed());
        for command in self.engine.handle(event, now) {
            self.execute(command);
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Apply(steps) => {
                let writer = &mut self.datapath.writer;
                let step = |step: &TableOp| writer.apply(std::slice::from_ref(step));
                if let Err(error) = Unwritten::write(&mut self.unwritten, &steps, step) {
                    error!(error = %format!("{error:#}"), "the maps could not be written: trying again");
                }
            }
            Command::Probe(request) => self.probe(request),
            Command::WatchPaths(addresses) => self.paths.watch(addresses),
            Command::WatchNames(names) => self.resolver.watch(names),
            Command::Publish(view) => {
                self.journal.follow(&view, &self.config);
                self.follow_applications(&view);
                // Nobody may be looking.
                let _ = self.view.send_replace(view);
            }
            Command::Persist(records) => {
                if let Some(saver) = &self.saver {
                    saver.save(records);
                }
            }
            Command::Shed(moves) => self.moves = moves,
            Command::Report(report) => self.report(report),
        }
    }

    fn probe(&mut self, request: ProbeRequest) {
        let way = self.way(&request);
        let (probes, answer) = (self.probes.clone(), self.observations.clone());
        tokio::spawn(async move {
            let (target, attempt) = (request.target, request.attempt);
            let event = match probes.permit().await {
                Some(_permit) => match probe::attempt_by(&request, way.as_ref(), &probes).await.0 {
                    Err(FailureReason::NoResources(_)) => Event::Missed { target, attempt },
                    observation => Event::Observed {
                        target,
                        attempt,
                        observation,
                    },
                },
                None => Event::Missed { target, attempt },
            };
            // The daemon is stopping when nobody listens.
            let _ = answer.send(event);
        });
    }

    /// Writes everything, after a step of the writer had failed: what the maps hold is not known any more.
    pub(super) fn write_again(&mut self) {
        let Some(unwritten) = &mut self.unwritten else {
            return;
        };
        let writer = &mut self.datapath.writer;
        let step = |step: &TableOp| writer.apply(std::slice::from_ref(step));
        match unwritten.write_again(&self.engine.image(), step) {
            Ok(()) => {
                self.unwritten = None;
                info!("the maps are written");
            }
            Err(error) => error!(error = %format!("{error:#}"), "the maps still cannot be written"),
        }
    }

    /// Compares the maps with what they should hold, and lets go of removed origins that have no flows left.
    fn repair(&mut self) {
        let image = self.engine.image();
        match self.datapath.writer.repair(&image) {
            Ok(0) => {}
            Ok(rows) => warn!(rows, "map rows held something else than they should: repaired"),
            Err(error) => error!(error = %format!("{error:#}"), "the maps cannot be repaired"),
        }
        let shown: BTreeSet<OriginId> = self
            .view
            .borrow()
            .pools
            .iter()
            .flat_map(|pool| &pool.origins)
            .map(|origin| origin.id)
            .collect();
        let draining = image.iter().filter_map(|step| match step {
            TableOp::Origin { id, record }
                if matches!(record.state, OriginState::DRAINING | OriginState::ENDED) =>
            {
                Some(*id)
            }
            _ => None,
        });
        let draining = draining.filter(|id| !shown.contains(id)).collect();
        let drained = self.drains.drained(draining, Instant::now());
        if !drained.is_empty() {
            self.tell(Event::Drained(drained));
        }
    }
}

/// The flow tables. A thread that panicked while it held them has left them whole: they are the kernel's.
pub(super) fn lock(flows: &Mutex<FlowTables>) -> MutexGuard<'_, FlowTables> {
    flows.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn changed(file: &mut Option<FileWatch>) {
    match file {
        Some(file) => file.changed().await,
        None => std::future::pending().await,
    }
}

fn open_store(config: &Config) -> Option<Store> {
    Store::open(&config.node.state_dir)
        .inspect_err(|error| warn!(error = %format!("{error:#}"), "health is not kept for the next start"))
        .ok()
}

/// Removes the neighbour entries that a daemon left to the kernel.
pub(super) fn release_neighbours() {
    if let Err(error) = paths::release_neighbours() {
        warn!(error = %format!("{error:#}"), "neighbour entries could not be released");
    }
}
