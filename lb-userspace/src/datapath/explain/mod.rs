//! Where a flow would go, and why: the packet path's own code over the live maps, with every question it asks written
//! down. What it would remember stays in memory.

mod recorder;

use super::clock::Clock;
use super::kernel::Datapath;
use super::question::Question;
use crate::wire::Explain;
use anyhow::Result;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData};
use lb_common::abi::{
    AccessKey, AccessRule, Affinity, AffinityKey, Application, ApplicationKey, Bucket, Country, CountryKey,
    Flow4, Flow6, FlowKey4, FlowKey6, FragmentFlow, FragmentKey, Hop, Interface, Ip, Load, Origin, PathMtu,
    Pool, PortSpan, Route, RouteKey, Settings, Slot, SourceKey, Timeouts, Vip, VipKey, maps,
};
use lb_common::datapath::{self, Arrival, Scratch};
use lb_core::view::View;
use recorder::Recorder;

/// Handles to the maps for reading single rows.
pub struct Explainer {
    applications: HashMap<MapData, ApplicationKey, Application>,
    pools: Array<MapData, Pool>,
    slots: Array<MapData, Slot>,
    origins: Array<MapData, Origin>,
    hops: Array<MapData, Hop>,
    snat_addresses: Array<MapData, Ip>,
    timeouts: Array<MapData, Timeouts>,
    vips: HashMap<MapData, VipKey, Vip>,
    addresses: Array<MapData, u64>,
    buckets: Array<MapData, Bucket>,
    settled: Array<MapData, u32>,
    routes: HashMap<MapData, RouteKey, Route>,
    spans: Array<MapData, PortSpan>,
    access: LpmTrie<MapData, AccessKey, AccessRule>,
    country_rules: HashMap<MapData, CountryKey, AccessRule>,
    countries: LpmTrie<MapData, Ip, Country>,
    rates: Array<MapData, u64>,
    source_rates: HashMap<MapData, SourceKey, u64>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    loads: Array<MapData, Load>,
    swept: Array<MapData, Load>,
    swept_at: Array<MapData, u32>,
    path_mtus: Array<MapData, PathMtu>,
    fragments: HashMap<MapData, FragmentKey, FragmentFlow>,
    interfaces: HashMap<MapData, u32, Interface>,
    flows4: HashMap<MapData, FlowKey4, Flow4>,
    flows6: HashMap<MapData, FlowKey6, Flow6>,
    tentative4: HashMap<MapData, FlowKey4, Flow4>,
    tentative6: HashMap<MapData, FlowKey6, Flow6>,
}

impl Explainer {
    /// Opens the maps of a datapath once more.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn new(datapath: &Datapath) -> Result<Self> {
        Ok(Self {
            applications: datapath.open_map(maps::APPLICATIONS)?.try_into()?,
            pools: datapath.open_map(maps::POOLS)?.try_into()?,
            slots: datapath.open_map(maps::SLOTS)?.try_into()?,
            origins: datapath.open_map(maps::ORIGINS)?.try_into()?,
            hops: datapath.open_map(maps::HOPS)?.try_into()?,
            snat_addresses: datapath.open_map(maps::SNAT_ADDRESSES)?.try_into()?,
            timeouts: datapath.open_map(maps::TIMEOUTS)?.try_into()?,
            vips: datapath.open_map(maps::VIPS)?.try_into()?,
            addresses: datapath.open_map(maps::ADDRESSES)?.try_into()?,
            buckets: datapath.open_map(maps::BUCKETS)?.try_into()?,
            settled: datapath.open_map(maps::SETTLED)?.try_into()?,
            routes: datapath.open_map(maps::ROUTES)?.try_into()?,
            spans: datapath.open_map(maps::SPANS)?.try_into()?,
            access: datapath.open_map(maps::ACCESS)?.try_into()?,
            country_rules: datapath.open_map(maps::COUNTRY_RULES)?.try_into()?,
            countries: datapath.open_map(maps::COUNTRIES)?.try_into()?,
            rates: datapath.open_map(maps::RATES)?.try_into()?,
            source_rates: datapath.open_map(maps::SOURCE_RATES)?.try_into()?,
            affinity: datapath.open_map(maps::AFFINITY)?.try_into()?,
            loads: datapath.open_map(maps::LOADS)?.try_into()?,
            swept: datapath.open_map(maps::SWEPT)?.try_into()?,
            swept_at: datapath.open_map(maps::SWEPT_AT)?.try_into()?,
            path_mtus: datapath.open_map(maps::PATH_MTUS)?.try_into()?,
            fragments: datapath.open_map(maps::FRAGMENTS)?.try_into()?,
            interfaces: datapath.open_map(maps::INTERFACES)?.try_into()?,
            flows4: datapath.open_map(maps::FLOWS4)?.try_into()?,
            flows6: datapath.open_map(maps::FLOWS6)?.try_into()?,
            tentative4: datapath.open_map(maps::TENTATIVE4)?.try_into()?,
            tentative6: datapath.open_map(maps::TENTATIVE6)?.try_into()?,
        })
    }

    /// Answers a question about the present state of the maps.
    #[must_use]
    pub fn explain(&self, settings: Settings, clock: &Clock, view: &View, question: Question) -> Explain {
        let recorder = Recorder::new(self, settings, view);
        let mut frame = question.first_packet();
        let arrival = Arrival {
            ifindex: 0,
            now: clock.now(),
        };
        let verdict = datapath::process(&mut frame, &recorder, &mut Scratch::default(), arrival);
        recorder.conclude(verdict, question)
    }
}
