//! What on this machine will not work, or not well, and how to mend it: `lb doctor`, and the warnings at the start.
//!
//! `rp_filter` and `ip_forward` are not looked at: what lb forwards never gets as far as the kernel's routing. The
//! limit on locked memory neither: since Linux 5.11 maps are accounted to the control group instead.

use super::interface::{self, Interface, is_veth};
use super::netlink::Netlink;
use super::ports;
use super::routing::{Route, route_request};
use super::sys::{self, Offloads};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// The program takes frames of several buffers (`xdp.frags`), and calls `bpf_xdp_load_bytes` and `bpf_xdp_get_buff_len`:
/// all three came with Linux 5.18. An older kernel would refuse to load it.
const OLDEST_KERNEL: (u32, u32) = (5, 18);
/// A page without XDP's headroom and the tail of an skb: larger frames need a driver that hands XDP several buffers.
const LARGEST_LINEAR_MTU: u32 = 3498;
const BPFFS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Attempts of monitors, API clients and maps share the limit on open files.
const FEWEST_OPEN_FILES: u64 = 4096;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Drivers that run XDP programs themselves (`ndo_bpf`), as `ethtool -i` calls them.
const NATIVE_DRIVERS: &[&str] = &[
    "am65-cpsw-nuss",
    "atlantic",
    "bnxt_en",
    "bonding",
    "cpsw",
    "ena",
    "fec",
    "fsl_dpaa2_eth",
    "fsl_dpaa_eth",
    "fsl_enetc",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "lan966x-switch",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "nicvf",
    "qede",
    "rvu_nicpf",
    "rvu_nicvf",
    "sfc",
    "sfc-siena",
    "st_gmac",
    "stmmaceth",
    "tsnep",
    "tun",
    "veth",
    "virtio_net",
    "vmxnet3",
    "xen_netfront",
];

/// How a check has come out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Status {
    Ok,
    /// It works, but worse than it could, or perhaps not.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What was looked at, such as `kernel` or `eth0 MTU`.
    pub name: String,
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: Status::Ok,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn warn(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(name, detail)
        }
    }

    fn fail(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(name, detail, remedy)
        }
    }
}

/// Looks at the machine, at each of the named interfaces and at each VIP, in this order. Changes nothing, and needs
/// no privilege.
pub async fn checks(interfaces: &[String], vips: &[IpAddr]) -> Vec<Check> {
    let capabilities = Capabilities::of_this_process();
    let mut checks = vec![
        kernel(rustix::system::uname().release().to_string_lossy().as_ref()),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        privileges(capabilities),
        bpffs(bpffs_is_mounted(), Path::new(BPFFS).is_dir(), capabilities),
        jit(fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
            .ok()
            .as_deref()),
        ports(),
        open_files(rustix::process::getrlimit(rustix::process::Resource::Nofile).current),
    ];
    checks.extend(interfaces.iter().flat_map(|name| of_interface(name)));
    if !vips.is_empty() {
        let names: Vec<_> = interfaces.iter().map(String::as_str).collect();
        checks.extend(vip_checks(&names, vips));
    }
    checks
}

/// Looks at one interface.
pub fn of_interface(name: &str) -> Vec<Check> {
    match interface::by_name(name) {
        Ok(interface) => {
            let offloads = sys::offloads(name).unwrap_or_default();
            let vlans = interface::vlans_on(interface.index).unwrap_or_default();
            interface_checks(&interface, offloads, &vlans)
        }
        Err(error) => vec![unknown(name, &error)],
    }
}

/// What the agent on an origin needs of the machine and of its interface.
pub fn agent_checks(interface: &str) -> Vec<Check> {
    let capabilities = Capabilities::of_this_process();
    let mut checks = vec![
        kernel(rustix::system::uname().release().to_string_lossy().as_ref()),
        privileges(capabilities),
        bpffs(bpffs_is_mounted(), Path::new(BPFFS).is_dir(), capabilities),
    ];
    checks.push(match interface::by_name(interface) {
        Ok(found) => link(&found),
        Err(error) => unknown(interface, &error),
    });
    checks
}

fn unknown(interface: &str, error: &anyhow::Error) -> Check {
    Check::fail(
        interface,
        format!("{error:#}"),
        "name an interface that `ip link` shows",
    )
}

fn link(interface: &Interface) -> Check {
    let name = &interface.name;
    let about = format!("{name} link");
    if interface.loopback || interface.mac == [0; 6] {
        Check::fail(
            about,
            "not an Ethernet interface",
            "attach lb to the Ethernet interface beneath",
        )
    } else if interface.up {
        Check::ok(about, "up")
    } else {
        Check::warn(
            about,
            "down, or without a carrier",
            format!("ip link set {name} up"),
        )
    }
}

fn kernel(release: &str) -> Check {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    if version < OLDEST_KERNEL {
        let (major, minor) = OLDEST_KERNEL;
        return Check::fail(
            "kernel",
            format!("Linux {release}"),
            format!("run Linux {major}.{minor} or later"),
        );
    }
    Check::ok("kernel", format!("Linux {release}"))
}

fn btf(present: bool) -> Check {
    if present {
        return Check::ok("BTF", "the kernel describes its types");
    }
    Check::warn(
        "BTF",
        "/sys/kernel/btf/vmlinux is missing",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions do; in a container, mount /sys",
    )
}

/// The effective capabilities, and whether they count for the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Capabilities {
    effective: u64,
    /// Not in a user namespace, where capabilities do not reach BPF.
    initial_namespace: bool,
}

impl Capabilities {
    fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self::read(&status, &map)
    }

    fn read(status: &str, uid_map: &str) -> Self {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective
            .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
            .unwrap_or(0);
        let whole: Vec<_> = uid_map.split_whitespace().collect();
        Self {
            effective,
            initial_namespace: whole.is_empty() || whole == ["0", "0", "4294967295"],
        }
    }

    fn has(self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0
    }
}

fn privileges(capabilities: Capabilities) -> Check {
    let remedy = "run lb as root, in a privileged container, or with the capabilities \
                  CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW";
    // CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON (capabilities(7)).
    let admin = capabilities.has(CAP_SYS_ADMIN);
    let wanted = [
        ("CAP_BPF", admin || capabilities.has(CAP_BPF)),
        // For programs that use pointers as the packet path does.
        ("CAP_PERFMON", admin || capabilities.has(CAP_PERFMON)),
        ("CAP_NET_ADMIN", capabilities.has(CAP_NET_ADMIN)),
    ];
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(_, has)| !has)
        .map(|(name, _)| *name)
        .collect();
    if !missing.is_empty() {
        return Check::fail("capabilities", format!("{} missing", missing.join(", ")), remedy);
    }
    if !capabilities.initial_namespace {
        return Check::fail(
            "capabilities",
            "this is a user namespace, where BPF is not allowed whatever the capabilities say",
            "run lb outside of it: not in a rootless container",
        );
    }
    if !capabilities.has(CAP_NET_RAW) {
        return Check::warn(
            "capabilities",
            "CAP_NET_RAW missing: icmp_ping monitors may fail",
            remedy,
        );
    }
    Check::ok(
        "capabilities",
        "BPF, network administration and pings are allowed",
    )
}

fn bpffs_is_mounted() -> bool {
    rustix::fs::statfs(BPFFS).is_ok_and(|status| status.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

fn bpffs(mounted: bool, directory: bool, capabilities: Capabilities) -> Check {
    let remedy = format!("mount -t bpf bpf {BPFFS}");
    match (mounted, directory, capabilities.has(CAP_SYS_ADMIN)) {
        (true, ..) => Check::ok("bpffs", format!("mounted at {BPFFS}")),
        (false, true, true) => Check::ok("bpffs", format!("not mounted at {BPFFS} yet: lb will mount it")),
        (false, true, false) => Check::fail(
            "bpffs",
            format!("not mounted at {BPFFS}, and lb may not mount it without CAP_SYS_ADMIN"),
            remedy,
        ),
        (false, false, _) => Check::fail(
            "bpffs",
            format!("{BPFFS} does not exist"),
            "mount sysfs at /sys; in a container, mount the host's /sys/fs/bpf",
        ),
    }
}

fn jit(setting: Option<&str>) -> Check {
    match setting.map(str::trim) {
        Some("0") => Check::warn(
            "JIT",
            "BPF programs are interpreted, which is several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Check::ok("JIT", "BPF programs are compiled"),
        // The sysctl exists in the first network namespace only.
        None => Check::ok("JIT", "not to be seen from this network namespace"),
    }
}

fn ports() -> Check {
    match ports::snat_ports() {
        Ok(ports) => {
            let last = u32::from(ports.first) + u32::from(ports.count) - 1;
            Check::ok(
                "SNAT ports",
                format!("{}-{last}, beside the kernel's ephemeral ports", ports.first),
            )
        }
        Err(error) => Check::fail(
            "SNAT ports",
            format!("{error:#}"),
            "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"",
        ),
    }
}

fn open_files(limit: Option<u64>) -> Check {
    match limit {
        Some(limit) if limit < FEWEST_OPEN_FILES => Check::warn(
            "open files",
            format!("at most {limit}: with many monitored origins, probes wait for each other"),
            "raise the limit: LimitNOFILE=65536 in the systemd unit, or ulimit -n 65536",
        ),
        Some(limit) => Check::ok("open files", format!("at most {limit}")),
        None => Check::ok("open files", "without a limit"),
    }
}

fn interface_checks(interface: &Interface, offloads: Offloads, vlans: &[String]) -> Vec<Check> {
    let name = &interface.name;
    let about = |what: &str| format!("{name} {what}");
    let mut checks = Vec::new();

    checks.push(link(interface));

    let driver = match interface.driver.as_str() {
        "" => "unknown driver",
        driver => driver,
    };
    checks.push(if NATIVE_DRIVERS.contains(&driver) {
        Check::ok(about("driver"), format!("{driver}, which has native XDP"))
    } else {
        Check::warn(
            about("driver"),
            format!(
                "{driver}, which is not known for native XDP: with mode \"auto\" lb falls back to generic XDP"
            ),
            "attach to the physical interface beneath, or use a network card with native XDP",
        )
    });

    if is_veth(interface) {
        checks.push(Check::warn(
            about("peer"),
            "a veth drops frames that XDP sends into it, without counting them, unless its other end can take them",
            "on the other end of the pair, switch GRO on (ethtool -K PEER gro on) or attach an XDP program",
        ));
    }

    checks.push(if interface.mtu > LARGEST_LINEAR_MTU {
        Check::warn(
            about("MTU"),
            format!(
                "{}: frames above {LARGEST_LINEAR_MTU} bytes need a driver with multi-buffer XDP",
                interface.mtu
            ),
            format!("if attaching fails: ip link set {name} mtu {LARGEST_LINEAR_MTU}"),
        )
    } else {
        Check::ok(about("MTU"), interface.mtu.to_string())
    });

    if offloads.lro {
        checks.push(Check::warn(
            about("LRO"),
            "large receive offload merges packets before XDP sees them; most drivers refuse XDP while it is on",
            format!("ethtool -K {name} lro off"),
        ));
    }
    if offloads.rx_vlan && !vlans.is_empty() {
        checks.push(Check::warn(
            about("VLANs"),
            format!(
                "the card takes VLAN tags off before XDP sees them, so that lb cannot tell the traffic of {} apart",
                vlans.join(", ")
            ),
            format!("ethtool -K {name} rxvlan off"),
        ));
    }

    let usable = interface.addresses.iter().any(|address| !is_link_local(*address));
    checks.push(if usable {
        Check::ok(about("addresses"), list(&interface.addresses))
    } else {
        Check::warn(
            about("addresses"),
            "none that could be the source of packets to origins",
            "give the interface an address, or set datapath.snat_addresses",
        )
    });
    checks
}

fn vip_checks(interfaces: &[&str], vips: &[IpAddr]) -> Vec<Check> {
    let mut netlink = match Netlink::open() {
        Ok(netlink) => netlink,
        Err(error) => {
            return vec![Check::warn(
                "VIPs",
                format!("cannot be looked at: {error}"),
                "allow netlink",
            )];
        }
    };
    let owned: Vec<IpAddr> = interface::all()
        .into_iter()
        .flatten()
        .flat_map(|interface| interface.addresses)
        .collect();
    let mut checks = Vec::new();
    for &vip in vips {
        let answer = netlink.get(route_request(vip));
        checks.push(vip_check(
            vip,
            owned.contains(&vip),
            &Reach::read(vip, answer),
            interfaces,
        ));
    }
    checks
}

/// What the kernel would do with a packet to a VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// Take it.
    Local,
    /// Look for the VIP on the link.
    OnLink,
    Elsewhere,
}

impl Reach {
    fn read(vip: IpAddr, answer: io::Result<netlink_packet_route::RouteNetlinkMessage>) -> Self {
        if let Ok(netlink_packet_route::RouteNetlinkMessage::NewRoute(route)) = &answer
            && route.header.kind == netlink_packet_route::route::RouteType::Local
        {
            return Self::Local;
        }
        match Route::read(vip, answer) {
            Route::Via { gateway: None, .. } => Self::OnLink,
            _ => Self::Elsewhere,
        }
    }
}

fn vip_check(vip: IpAddr, owned: bool, reach: &Reach, interfaces: &[&str]) -> Check {
    let name = format!("VIP {vip}");
    let prefix = if vip.is_ipv4() { 32 } else { 128 };
    let interface = interfaces.first().copied().unwrap_or("IF");
    match reach {
        _ if owned => Check::ok(name, "an address of this node"),
        Reach::Local => Check::ok(name, "routed to this node itself"),
        Reach::OnLink => Check::warn(
            name,
            "in a network of this node, but no interface has it, so that nobody answers who asks for its MAC address",
            format!("ip addr add {vip}/{prefix} dev {interface}"),
        ),
        Reach::Elsewhere => Check::warn(
            name,
            "no interface has it: its traffic comes only if the routers in front send it to this node",
            format!("route it here, or announce it: ip addr add {vip}/{prefix} dev lo, and BIRD or FRR"),
        ),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(IpAddr::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
