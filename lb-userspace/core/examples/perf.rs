use core::time::Duration;
use lb_common::abi::*;
use lb_core::engine::*;
use lb_core::model::*;
use lb_core::time::Timestamp;
use std::sync::Arc;
fn main() {
    let w = Weight::ONE;
    let mut c = Config {
        node: Node {
            name: "n".into(),
            pop: None,
            region: None,
            country: None,
            latitude: None,
            longitude: None,
            state_dir: "/x".into(),
        },
        datapath: Datapath {
            interfaces: vec![],
            mode: AttachMode::Auto,
            snat_addresses: vec![],
            max_flows: 1,
            on_exit: OnExit::Keep,
            flow_timeouts: FlowTimeouts::default(),
        },
        api: Api {
            socket: "/x".into(),
            listen: vec![],
            token_file: None,
        },
        monitors: vec![Monitor {
            name: "m".into(),
            kind: MonitorKind::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            retries: 0,
            consecutive_up: 0,
            consecutive_down: 0,
            port: None,
        }],
        pools: vec![],
        load_balancers: vec![],
        applications: vec![],
    };
    for p in 0..1000u32 {
        let n = format!("pool{p}");
        c.pools.push(lb_core::model::Pool {
            name: n.clone(),
            enabled: true,
            monitor: Some("m".into()),
            minimum_origins: 1,
            origin_steering: OriginSteering::Random,
            origins: (0..10)
                .map(|o| lb_core::model::Origin {
                    name: format!("o{o}"),
                    address: core::net::Ipv4Addr::from_bits(0x0a000000 + p * 16 + o).into(),
                    port: Some(80),
                    weight: w,
                    enabled: true,
                })
                .collect(),
        });
        c.load_balancers.push(LoadBalancer {
            name: n.clone(),
            enabled: true,
            default_pools: vec![n.clone()],
            fallback_pool: Some(format!("pool{}", (p + 1) % 1000)),
            steering_policy: SteeringPolicy::Off,
        });
        c.applications.push(lb_core::model::Application {
            name: n.clone(),
            enabled: true,
            transport: Transport::Tcp,
            port: 80,
            addresses: vec![core::net::Ipv4Addr::from_bits(0xcb000000 + p).into()],
            destination: Destination::LoadBalancer(n),
            origin_port: None,
        });
    }
    let cap = Engine::required_capacity(&c);
    println!("{cap:?}");
    let env = Environment {
        hz: 250,
        hash_key: HashKey::default(),
        snat_ports: PortRange { first: 1, count: 1 },
        flags: SettingsFlags(0),
        capacity: cap,
        adopted: None,
        health: vec![],
        assume_healthy: false,
        seed: 1,
    };
    let mut e = Engine::new(env, Timestamp::default());
    let t = std::time::Instant::now;
    let s = t();
    let cm = e.handle(Event::Configure(Arc::new(c.clone())), Timestamp::default());
    println!("configure {:?} {}", s.elapsed(), cm.len());
    let watched = cm
        .iter()
        .find_map(|c| {
            if let Command::WatchPaths(w) = c {
                Some(w.clone())
            } else {
                None
            }
        })
        .unwrap();
    let paths: std::collections::BTreeMap<_, _> = watched
        .iter()
        .map(|a| {
            (
                *a,
                Path::Via {
                    ifindex: 2,
                    next_hop: *a,
                    neighbour: Some(Mac([1, 2, 3])),
                    interface_mac: Mac([1, 2, 3]),
                    mtu: 1500,
                    sources: vec!["1.2.3.4".parse().unwrap()],
                },
            )
        })
        .collect();
    let s = t();
    let cm = e.handle(Event::Paths(paths), Timestamp::default());
    println!("paths {:?} {}", s.elapsed(), cm.len());
    let s = t();
    let cm = e.handle(Event::Tick, Timestamp(Duration::from_millis(200)));
    println!("tick {:?} {}", s.elapsed(), cm.len());
    let s = t();
    let mut n = 0;
    let mut max = Duration::ZERO;
    for c in cm {
        if let Command::Probe(p) = c {
            let s = t();
            let o = e.handle(
                Event::Observed {
                    target: p.target,
                    attempt: p.attempt,
                    observation: Ok(Duration::from_millis(1)),
                },
                Timestamp(Duration::from_millis(201)),
            );
            n += o.len();
            max = max.max(s.elapsed());
        }
    }
    println!("10000 first results {:?} {n} max {max:?}", s.elapsed());
    let cm = e.handle(Event::Tick, Timestamp(Duration::from_millis(5200)));
    let s = t();
    let mut k = 0;
    for c in cm {
        if let Command::Probe(p) = c {
            k += 1;
            e.handle(
                Event::Observed {
                    target: p.target,
                    attempt: p.attempt,
                    observation: Ok(Duration::from_millis(1)),
                },
                Timestamp(Duration::from_millis(5201)),
            );
        }
    }
    println!("{k} confirming results {:?}", s.elapsed());
    let s = t();
    let cm = e.handle(
        Event::Configure(Arc::new(c.clone())),
        Timestamp(Duration::from_secs(6)),
    );
    println!("reconfigure same {:?} {}", s.elapsed(), cm.len());
    for p in &mut c.pools {
        for o in &mut p.origins {
            o.weight = Weight::from_hundredths(50 + (o.name.len() as u8)).unwrap();
        }
        p.origins[0].weight = Weight::ONE;
    }
    let s = t();
    let cm = e.handle(
        Event::Configure(Arc::new(c.clone())),
        Timestamp(Duration::from_secs(6)),
    );
    println!("reconfigure all tables {:?} {}", s.elapsed(), cm.len());
}
