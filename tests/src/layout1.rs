//! Maps of layout 1, as a daemon of that version left them.

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::abi::{
    Application, ApplicationKey, Flow4, Flow6, FlowCore, FlowKey4, FlowKey6, Origin, OriginId, Settings, maps,
};
use lb_common::testing::MemoryTables;
use lb_userspace::datapath::migrate::v1;
use std::path::Path;

/// Jiffies.
const TIMEOUTS: [u32; 4] = [100_000, 10_000, 20_000, 50_000];
/// Rows and entries of each map.
const ROOM: u32 = 4096;

/// Bytes of a record as aya takes them.
fn bytes<const N: usize>(record: &impl bytemuck::NoUninit) -> [u8; N] {
    bytemuck::bytes_of(record).try_into().expect("the record's size")
}

/// The map that is pinned in a folder.
///
/// # Panics
/// There is none.
#[must_use]
pub fn open(folder: &Path, name: &str) -> Map {
    let data = MapData::from_pin(folder.join(name)).expect("a pinned map");
    Map::from_map_data(data).expect("a map of a known kind")
}

fn hash<const K: usize, const V: usize>(folder: &Path, name: &str) -> HashMap<MapData, [u8; K], [u8; V]> {
    let made: HashMap<MapData, [u8; K], [u8; V]> = HashMap::create(ROOM, 0).expect("a map can be made");
    made.pin(folder.join(name)).expect("a map can be pinned");
    open(folder, name).try_into().expect("a hash")
}

/// Makes an array and pins it.
///
/// # Panics
/// The kernel refuses it.
#[must_use]
pub fn array<const V: usize>(folder: &Path, name: &str, rows: u32) -> Array<MapData, [u8; V]>
where
    [u8; V]: Pod,
{
    let made: Array<MapData, [u8; V]> = Array::create(rows, 0).expect("a map can be made");
    made.pin(folder.join(name)).expect("a map can be pinned");
    open(folder, name).try_into().expect("an array")
}

/// The maps that a later version looks at.
pub struct Layout1 {
    settings: Array<MapData, [u8; 48]>,
    origins: Array<MapData, [u8; 40]>,
    applications: HashMap<MapData, [u8; 20], [u8; 24]>,
    flows4: HashMap<MapData, [u8; 16], [u8; 48]>,
    flows6: HashMap<MapData, [u8; 40], [u8; 72]>,
}

impl Layout1 {
    /// Makes and pins them.
    ///
    /// # Panics
    /// The kernel refuses them.
    #[must_use]
    pub fn make(folder: &Path) -> Self {
        Self {
            settings: array(folder, "SETTINGS", 1),
            origins: array(folder, "ORIGINS", ROOM),
            applications: hash(folder, "APPLICATIONS"),
            flows4: hash(folder, "FLOWS4"),
            flows6: hash(folder, "FLOWS6"),
        }
    }

    /// Fills them as a daemon would whose tables are these.
    pub fn fill(&mut self, tables: &MemoryTables) {
        self.settings(&tables.settings);
        for (id, origin) in &tables.origins {
            let mut origin = *origin;
            origin.identity = 1000 + u64::from(id.0);
            self.origin(*id, &origin);
        }
        for (key, application) in &tables.applications {
            self.application(key, application);
        }
        self.flows(tables);
    }

    /// Fills them from the pinned maps of the present layout.
    ///
    /// # Panics
    /// They cannot be read.
    pub fn fill_from(&mut self, folder: &Path) {
        let array = |name| open(folder, name);
        let settings: Array<_, Settings> = array(maps::SETTINGS).try_into().expect("an array");
        self.settings(&settings.get(&0, 0).expect("the settings"));
        let origins: Array<_, Origin> = array(maps::ORIGINS).try_into().expect("an array");
        for id in 0..ROOM.min(origins.len()) {
            let record = origins.get(&id, 0).expect("a row");
            if record != Origin::default() {
                self.origin(OriginId(id), &record);
            }
        }
        let applications: HashMap<_, ApplicationKey, Application> =
            array(maps::APPLICATIONS).try_into().expect("a hash");
        for entry in applications.iter() {
            let (key, record) = entry.expect("an entry");
            self.application(&key, &record);
        }
        for name in [maps::FLOWS4, maps::TENTATIVE4] {
            let flows: HashMap<_, FlowKey4, Flow4> = array(name).try_into().expect("a hash");
            for entry in flows.iter() {
                let (key, flow) = entry.expect("an entry");
                self.flow4(&key, &flow);
            }
        }
        for name in [maps::FLOWS6, maps::TENTATIVE6] {
            let flows: HashMap<_, FlowKey6, Flow6> = array(name).try_into().expect("a hash");
            for entry in flows.iter() {
                let (key, flow) = entry.expect("an entry");
                self.flow6(&key, &flow);
            }
        }
    }

    /// Writes the flows that the tables remember, as the old program would have.
    pub fn flows(&mut self, tables: &MemoryTables) {
        for memory in [&tables.flows4, &tables.tentative4] {
            for (key, flow) in memory.borrow().iter() {
                self.flow4(key, flow);
            }
        }
        for memory in [&tables.flows6, &tables.tentative6] {
            for (key, flow) in memory.borrow().iter() {
                self.flow6(key, flow);
            }
        }
    }

    fn settings(&mut self, settings: &Settings) {
        let [
            tcp_timeout,
            tcp_handshake_timeout,
            tcp_closing_timeout,
            udp_timeout,
        ] = TIMEOUTS;
        let record = v1::Settings {
            k0: settings.hash_key.k0,
            k1: settings.hash_key.k1,
            tcp_timeout,
            tcp_handshake_timeout,
            tcp_closing_timeout,
            udp_timeout,
            generation: settings.generation,
            ..v1::Settings::default()
        };
        let written = self.settings.set(0, bytes(&record), 0);
        written.expect("there is room");
    }

    fn origin(&mut self, id: OriginId, origin: &Origin) {
        let record = v1::Origin {
            address: origin.address.0,
            identity: origin.identity,
            snat_base: origin.snat_base,
            snat_count: origin.snat_count,
            hop: origin.hop.0,
            port: origin.port.0,
            state: origin.state.0,
            forwarding: 0,
        };
        let written = self.origins.set(id.0, bytes(&record), 0);
        written.expect("there is room");
    }

    fn application(&mut self, key: &ApplicationKey, application: &Application) {
        let key = v1::ApplicationKey {
            address: key.address.0,
            port: key.port.0,
            protocol: key.protocol.0,
            parity: key.parity.0,
        };
        let record = v1::Application {
            id: application.id,
            ..v1::Application::default()
        };
        let written = self.applications.insert(bytes(&key), bytes(&record), 0);
        written.expect("there is room");
    }

    /// Writes one entry.
    ///
    /// # Panics
    /// There is no room.
    pub fn flow4(&mut self, key: &FlowKey4, flow: &Flow4) {
        let key = v1::FlowKey4 {
            source: key.source.0,
            destination: key.destination.0,
            source_port: key.source_port.0,
            destination_port: key.destination_port.0,
            protocol: key.protocol.0,
            ..v1::FlowKey4::default()
        };
        let flow = v1::Flow4 {
            core: core(&flow.core),
            source: flow.source.0,
            destination: flow.destination.0,
        };
        let written = self.flows4.insert(bytes(&key), bytes(&flow), 0);
        written.expect("there is room");
    }

    fn flow6(&mut self, key: &FlowKey6, flow: &Flow6) {
        let key = v1::FlowKey6 {
            source: key.source.0,
            destination: key.destination.0,
            source_port: key.source_port.0,
            destination_port: key.destination_port.0,
            protocol: key.protocol.0,
            ..v1::FlowKey6::default()
        };
        let flow = v1::Flow6 {
            core: core(&flow.core),
            source: flow.source.0,
            destination: flow.destination.0,
        };
        let written = self.flows6.insert(bytes(&key), bytes(&flow), 0);
        written.expect("there is room");
    }
}

fn core(core: &FlowCore) -> v1::FlowCore {
    v1::FlowCore {
        origin: core.origin.0,
        application: core.application,
        seen: core.seen,
        client_ifindex: core.client_ifindex,
        client_mac: core.client_mac.0,
        node_mac: core.node_mac.0,
        source_port: core.source_port.0,
        destination_port: core.destination_port.0,
        header_delta: core.header_delta,
        payload_delta: core.payload_delta,
        // Of UDP the old layout remembered nothing.
        tcp: core.tcp.0 & 31,
        side: core.side.0,
        last_resort: core.last_resort,
        reserved: 0,
    }
}
