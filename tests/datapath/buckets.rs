//! Buckets of flows without entries, as sweeps of the kernel's tables keep them.

use aya::maps::{Array, HashMap, MapData};
use lb_common::abi::{
    Application, ApplicationKey, Bucket, Flow4, FlowCore, FlowKey4, FlowSide, Forwarding, OriginId, Port,
    Protocol, Settings, TcpState, Timeouts, maps,
};
use lb_common::hash;
use lb_common::testing::scenario::{TIMEOUTS, app};
use lb_common::testing::{Scenario, modes};
use lb_core::image::TableOp;
use lb_tests::needs_root;
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::datapath::buckets::{Buckets, Relocations};
use lb_userspace::datapath::flows::FlowTables;
use lb_userspace::datapath::writer::Writer;

struct Bed {
    kernel: Kernel,
    tables: FlowTables,
    key: ApplicationKey,
    application: Application,
}

impl Bed {
    fn new() -> Self {
        let mut kernel = Kernel::new(&small()).unwrap();
        let mut scenario = Scenario::plain();
        modes::without_entries(&mut scenario);
        let ours = |(key, record): &(&ApplicationKey, &Application)| {
            record.id == app::DSR_L2 && key.protocol == Protocol::TCP && key.address.v4().is_some()
        };
        let applications = scenario.tables.applications.iter();
        let (key, application) = applications.clone().find(ours).unwrap();
        let (key, application) = (*key, *application);
        kernel.write(&scenario.tables).unwrap();
        Self {
            tables: FlowTables::new(|name| kernel.map(name)).unwrap(),
            kernel,
            key,
            application,
        }
    }

    fn array<V: aya::Pod>(&self, name: &str) -> Array<MapData, V> {
        self.kernel.map(name).unwrap().try_into().unwrap()
    }

    fn flow(&self) -> FlowKey4 {
        FlowKey4 {
            source: "198.51.100.7".parse::<std::net::Ipv4Addr>().unwrap().into(),
            destination: self.key.address.v4().unwrap(),
            source_port: Port::new(40_000),
            destination_port: self.key.port,
            protocol: Protocol::TCP,
            reserved: [0; 3],
        }
    }

    /// The row of the flow's bucket.
    fn row(&self) -> u32 {
        let secret = self.array::<Settings>(maps::SETTINGS);
        let secret = secret.get(&0, 0).unwrap().hash_key;
        let run = self.application.buckets;
        let key = self.flow();
        let number = run.number(hash::bucket4(secret, key.source, key.source_port));
        run.row(number, false)
    }

    /// Adds an entry of an application with that number to a table.
    fn remember(&self, table: &str, application: u32, key: FlowKey4) {
        self.array::<Timeouts>(maps::TIMEOUTS)
            .set(application, TIMEOUTS, 0)
            .unwrap();
        let now = self.kernel.clock.now();
        let core = FlowCore {
            origin: OriginId(1),
            application,
            seen: now,
            opened: now,
            tcp: TcpState::NEW,
            side: FlowSide::CLIENT,
            forwarding: Forwarding::DSR_L2,
            ..FlowCore::default()
        };
        let flow = Flow4 {
            core,
            ..bytemuck::Zeroable::zeroed()
        };
        let mut flows: HashMap<MapData, FlowKey4, Flow4> =
            self.kernel.map(table).unwrap().try_into().unwrap();
        flows.insert(key, flow, 0).unwrap();
    }

    /// Whether the flow's bucket may have entries, as far as packets know.
    fn may_be_tracked(&self) -> bool {
        let row = self.row();
        let bucket = self.array::<Bucket>(maps::BUCKETS).get(&row, 0).unwrap();
        bucket.may_be_tracked(self.array::<u32>(maps::SETTLED).get(&row, 0).unwrap())
    }

    fn set(&self, bucket: Bucket, settled: u32) {
        let row = self.row();
        self.array(maps::BUCKETS).set(row, bucket, 0).unwrap();
        self.array::<u32>(maps::SETTLED).set(row, settled, 0).unwrap();
    }

    fn sweep(&mut self) {
        self.tables.sweep(&self.kernel.clock).unwrap();
    }

    /// A bucket whose last entry was made so many jiffies ago.
    fn noted(&self, ago: u32) -> Bucket {
        let mut bucket = Bucket::default();
        bucket.note(self.kernel.clock.now().wrapping_sub(ago));
        bucket
    }
}

/// The application of an entry may have another number by now: its name has changed, or it was removed and added again.
#[test]
fn an_entry_is_found_by_where_its_packets_go() {
    needs_root!();
    namespace().enter(|| {
        for table in [maps::FLOWS4, maps::TENTATIVE4] {
            for application in [app::DSR_L2, app::WEB] {
                let mut bed = Bed::new();
                bed.set(bed.noted(100), 0);
                let key = bed.flow();
                bed.remember(table, application, key);
                bed.sweep();
                assert!(bed.may_be_tracked(), "{table} {application}");
            }
        }
    });
}

/// The application may have listened at another port when the entry was made, and may again.
#[test]
fn an_entry_is_found_by_whose_it_is() {
    needs_root!();
    namespace().enter(|| {
        for (application, found) in [(app::DSR_L2, true), (app::WEB, false)] {
            let mut bed = Bed::new();
            bed.set(bed.noted(100), 0);
            let destination_port = Port::new(1);
            let elsewhere = FlowKey4 {
                destination_port,
                ..bed.flow()
            };
            bed.remember(maps::FLOWS4, application, elsewhere);
            bed.sweep();
            assert_eq!(bed.may_be_tracked(), found, "{application}");
        }
    });
}

#[test]
fn a_bucket_without_entries_is_settled_however_long_ago_it_had_some() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        for ago in [100, 1 << 30, 1 << 31, 3 << 30] {
            bed.set(bed.noted(ago), 0);
            assert!(bed.may_be_tracked());
            bed.sweep();
            assert!(!bed.may_be_tracked(), "{ago}");
            bed.sweep();
            assert!(!bed.may_be_tracked(), "{ago}: for good");
        }
        // It may have been noted after the sweep began.
        bed.set(bed.noted(0), 0);
        bed.sweep();
        assert!(bed.may_be_tracked());
    });
}

/// Also one that was there before the address was the application's, when a former sweep could not know.
#[test]
fn a_settled_bucket_with_an_entry_is_mended() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        let bucket = bed.noted(100);
        bed.set(bucket, bucket.tracked);
        assert!(!bed.may_be_tracked());
        let key = bed.flow();
        bed.remember(maps::FLOWS4, app::WEB, key);
        bed.sweep();
        assert!(bed.may_be_tracked());
    });
}

/// The generation that is not live may become so before the sweep ends, if it is the next; what a former one had is past.
#[test]
fn an_entry_is_found_by_where_the_next_generation_listens() {
    needs_root!();
    namespace().enter(|| {
        let mut bed = Bed::new();
        let shared = Relocations::default();
        let mut writer = Writer::new(|name| bed.kernel.map(name)).unwrap().sharing(&shared);
        bed.tables = FlowTables::new(|name| bed.kernel.map(name))
            .unwrap()
            .sharing(&shared);
        let destination_port = Port::new(1);
        let elsewhere = FlowKey4 {
            destination_port,
            ..bed.flow()
        };
        bed.remember(maps::FLOWS4, app::WEB, elsewhere);
        let key = ApplicationKey {
            port: destination_port,
            parity: bed.key.parity.other(),
            ..bed.key
        };
        let record = bed.application;
        bed.set(bed.noted(100), 0);
        writer.apply(&[TableOp::Application { key, record }]).unwrap();
        bed.sweep();
        assert!(!bed.may_be_tracked(), "of a former generation");
        let run = record.buckets;
        let (base, count) = (run.base(), run.rows());
        writer.apply(&[TableOp::Unsettle { base, count }]).unwrap();
        bed.sweep();
        assert!(bed.may_be_tracked(), "of the next generation");
        let mut settings: Array<MapData, Settings> = bed.array(maps::SETTINGS);
        let mut live = settings.get(&0, 0).unwrap();
        live.generation = live.generation.wrapping_add(2);
        settings.set(0, live, 0).unwrap();
        bed.sweep();
        assert!(!bed.may_be_tracked(), "the next was another");
    });
}

#[test]
fn a_sweep_settles_nothing_when_it_took_too_long_or_addresses_have_changed_hands() {
    needs_root!();
    namespace().enter(|| {
        let bed = Bed::new();
        let shared = Relocations::default();
        let mut writer = Writer::new(|name| bed.kernel.map(name)).unwrap().sharing(&shared);
        let mut buckets = Buckets::new(|name| bed.kernel.map(name)).unwrap();
        buckets.share(&shared);
        bed.set(bed.noted(2 * Bucket::LONGEST_SWEEP), 0);
        let sweep = |took: u32, meanwhile: &mut dyn FnMut()| {
            let now = bed.kernel.clock.now();
            let look = buckets.begin(now.wrapping_sub(took)).unwrap();
            meanwhile();
            buckets.end(&look, now).unwrap();
            bed.may_be_tracked()
        };
        let mut unsettle = || {
            let run = bed.application.buckets;
            let (base, count) = (run.base(), run.rows());
            writer.apply(&[TableOp::Unsettle { base, count }]).unwrap();
        };
        assert!(sweep(Bucket::LONGEST_SWEEP, &mut || {}));
        assert!(sweep(10, &mut unsettle));
        assert!(!sweep(10, &mut || {}));
        unsettle();
        assert!(bed.may_be_tracked());
        assert!(!sweep(10, &mut || {}));
    });
}
