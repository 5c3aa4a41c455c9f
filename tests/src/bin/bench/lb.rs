//! lb with a given number of flows in its tables.

use crate::against::Object;
use crate::cases::{Build, Case};
use crate::counters::{Counters, Group, add};
use crate::flows::{self, Flows};
use crate::frame::Version;
use crate::layout::{Door, Shape};
use crate::modes::Mode;
use crate::subject::Subject;
use crate::tables;
use anyhow::{Context, Result};
use aya::maps::{Map, MapData};
use aya::programs::{ProgramFd, Xdp};
use lb_common::abi::{Flow4, Flow6, FlowKey4, FlowKey6, maps};
use lb_common::datapath::Stage;
use lb_common::datapath::family::{V4, V6};
use lb_userspace::datapath::clock::Clock;
use lb_userspace::datapath::flows::FlowTables;
use lb_userspace::datapath::object::{Loaded, MapSizes};
use lb_userspace::datapath::pins::Pins;
use lb_userspace::datapath::reader::Reader;
use lb_userspace::datapath::writer::Writer;

/// Jiffies, more than what userspace's clock may be ahead of the kernel's.
const RECENT: u32 = 8;

/// One lb.
pub struct Lb {
    build: Build,
    shape: Shape,
    writer: Writer,
    reader: Reader,
    /// Where new flows are.
    tentative4: Flows<FlowKey4, Flow4>,
    tentative6: Flows<FlowKey6, Flow6>,
    flows4: Flows<FlowKey4, Flow4>,
    flows6: Flows<FlowKey6, Flow6>,
    sweeper: FlowTables,
    clock: Clock,
    exit: u32,
    loaded: Loaded,
}

impl Lb {
    /// Loads it with its maps pinned, and fills them.
    ///
    /// # Errors
    /// The kernel refuses something, or the object's maps are of another layout than this tree's.
    pub fn new(object: &Object, build: Build, shape: Shape, pins: &Pins) -> Result<Self> {
        let sizes = MapSizes {
            capacity: tables::capacity(shape),
            max_flows: flows::room(build, shape),
        };
        let mut loaded = object.load(&sizes, pins)?;
        let clock = Clock::measure(&mut loaded.ebpf)?;
        let open =
            |name: &str| -> Result<Map> { Ok(Map::from_map_data(MapData::from_pin(pins.map(name))?)?) };
        let mut lb = Self {
            build,
            shape,
            writer: Writer::new(open)?,
            reader: Reader::new(open)?,
            tentative4: Flows::new(open(maps::TENTATIVE4)?, open(maps::TENTATIVE4)?)?,
            tentative6: Flows::new(open(maps::TENTATIVE6)?, open(maps::TENTATIVE6)?)?,
            flows4: Flows::new(open(maps::FLOWS4)?, open(maps::FLOWS4)?)?,
            flows6: Flows::new(open(maps::FLOWS6)?, open(maps::FLOWS6)?)?,
            sweeper: FlowTables::new(open)?,
            clock,
            exit: 0,
            loaded,
        };
        lb.writer
            .apply(&tables::configuration(shape, lb.clock.hz))
            .context("configure it")?;
        for mode in Mode::ALL {
            lb.flows4.fill::<V4>((build, shape), mode, lb.clock.now())?;
            lb.flows6.fill::<V6>((build, shape), mode, lb.clock.now())?;
        }
        lb.sweeper.sweep(&lb.clock).context("sweep the flow tables")?;
        Ok(lb)
    }
}

impl Subject for Lb {
    fn entry(&self) -> Result<ProgramFd> {
        let name = Stage::Known.program();
        let program = self.loaded.ebpf.program(name).context("it has no first stage")?;
        let program: &Xdp = program.try_into()?;
        Ok(program.fd()?.try_clone()?)
    }

    fn leave_by(&mut self, ifindex: u32) -> Result<()> {
        if self.exit != ifindex {
            self.writer.apply(&tables::next_hops(self.shape, ifindex))?;
            self.exit = ifindex;
        }
        Ok(())
    }

    fn counters(&self) -> Result<Option<Counters>> {
        let mut counters = Counters::default();
        for mode in Mode::ALL {
            let sum = &mut counters.applications[Group::of(mode, Door::Open).0];
            for number in 0..self.shape.applications(mode) {
                add(sum, self.reader.application(self.shape.application(mode, number)));
            }
            for version in [Version::V4, Version::V6] {
                let sum = &mut counters.origins[mode.row(version)];
                for number in 0..self.shape.origins(mode) {
                    add(
                        sum,
                        self.reader.origin(self.shape.origin(mode, version, number).0),
                    );
                }
            }
        }
        for door in Door::CLOSABLE {
            counters.applications[Group::of(Mode::Nat, door).0] = self.reader.application(door.application());
        }
        counters.verdicts = self
            .reader
            .verdicts()
            .into_iter()
            .chain(self.reader.drops())
            .collect();
        Ok(Some(counters))
    }

    fn settle(&mut self) -> Result<()> {
        // What packets did within the last jiffies a sweep leaves to the next one.
        std::thread::sleep(self.clock.duration(RECENT));
        self.sweeper.sweep(&self.clock).context("sweep the flow tables")?;
        Ok(())
    }

    fn needless(&self) -> Result<u64> {
        if self.build == Build::Tracking {
            return Ok(0);
        }
        let mut count = 0;
        for table in [&self.flows4, &self.tentative4] {
            count += table.needless(|key, flow| (key.protocol, flow.core.forwarding))?;
        }
        for table in [&self.flows6, &self.tentative6] {
            count += table.needless(|key, flow| (key.protocol, flow.core.forwarding))?;
        }
        Ok(count)
    }

    fn amiss(&self, case: &Case, flows: &[u32]) -> Result<u64> {
        match case.version {
            Version::V4 => self.tentative4.amiss::<V4>(case, flows),
            Version::V6 => self.tentative6.amiss::<V6>(case, flows),
        }
    }
}
