//! The short ways to applications follow the records, whoever wrote them.

use aya::maps::{Array, MapData};
use lb_common::abi::{
    Application, ApplicationFlags, ApplicationKey, BucketRun, Parity, Port, Protocol, Shortcut, maps,
};
use lb_core::image::TableOp;
use lb_tests::needs_root;
use lb_tests::prog::{Kernel, namespace, small};
use lb_userspace::datapath::writer::Writer;
use std::net::Ipv4Addr;

fn key(port: u16) -> ApplicationKey {
    ApplicationKey {
        address: std::net::IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)).into(),
        port: Port::new(port),
        protocol: Protocol::TCP,
        parity: Parity::of(2),
    }
}

fn record(id: u32, buckets: BucketRun) -> Application {
    Application {
        id,
        buckets,
        flags: ApplicationFlags(ApplicationFlags::UNTRACKED),
        ..Application::default()
    }
}

/// Two ports whose applications would stand in one row.
fn rivals() -> [ApplicationKey; 2] {
    let first = key(1);
    let second = (2..=u16::MAX)
        .map(key)
        .find(|key| Shortcut::row(key) == Shortcut::row(&first));
    [first, second.expect("there are more ports than rows")]
}

struct Bed {
    map: Array<MapData, Shortcut>,
    writer: Writer,
}

impl Bed {
    fn new(kernel: &Kernel) -> Self {
        Self {
            map: kernel.map(maps::SHORTCUTS).unwrap().try_into().unwrap(),
            writer: Writer::new(|name| kernel.map(name)).unwrap(),
        }
    }

    fn write(&mut self, op: TableOp) {
        self.writer.apply(&[op]).unwrap();
    }

    /// All rows that are somebody's.
    fn held(&self) -> Vec<Shortcut> {
        let rows = (0..Shortcut::ROWS).map(|row| self.map.get(&row, 0).unwrap());
        rows.filter(|held| *held != Shortcut::default()).collect()
    }
}

#[test]
fn a_row_is_of_one_application_and_true_as_long_as_that_is_there() {
    needs_root!();
    namespace().enter(|| {
        let kernel = Kernel::new(&small()).unwrap();
        let mut bed = Bed::new(&kernel);
        let [first, second] = rivals();
        let runs = [BucketRun::new(0, 8), BucketRun::new(512, 8)];
        let records = [record(1, runs[0]), record(2, runs[1])];
        let ways = [
            Shortcut::of(first, &records[0]).unwrap(),
            Shortcut::of(second, &records[1]).unwrap(),
        ];
        for (key, record) in [(first, records[0]), (second, records[1])] {
            bed.write(TableOp::Application { key, record });
        }
        assert_eq!(bed.held(), [ways[0]], "who is there stays there");
        let tracked = Application {
            flags: ApplicationFlags::default(),
            ..records[0]
        };
        bed.write(TableOp::Application {
            key: first,
            record: tracked,
        });
        assert_eq!(bed.held(), [Shortcut::of(first, &tracked).unwrap()]);
        bed.write(TableOp::RemoveApplication { key: second });
        assert_eq!(bed.held().len(), 1, "it was not its own");
        bed.write(TableOp::Application {
            key: second,
            record: records[1],
        });
        bed.write(TableOp::RemoveApplication { key: first });
        assert_eq!(bed.held(), []);
        // The next daemon finds the other one's record, and a row that some program has left.
        bed.map.set(7, ways[0], 0).unwrap();
        let mut bed = Bed::new(&kernel);
        assert_eq!(bed.held(), [ways[1]]);
        bed.map
            .set(Shortcut::row(&second), Shortcut::default(), 0)
            .unwrap();
        assert_eq!(bed.writer.repair(&[]).unwrap(), 1);
        assert_eq!(bed.held(), [ways[1]]);
        // Without buckets there is no way, and nothing is left of the one that was.
        bed.write(TableOp::Application {
            key: second,
            record: record(2, BucketRun::NONE),
        });
        assert_eq!(bed.held(), []);
    });
}
