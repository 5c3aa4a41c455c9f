//! Attaching the program to interfaces by pinned links, and detaching it.

use super::object::program;
use super::pins::{LinkPin, Mode, Pins};
use super::sys;
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::XdpMode;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use lb_common::datapath::Stage;
use lb_core::model::AttachMode;
use std::fs;
use std::path::Path;
use tracing::{info, warn};

/// An interface that runs the program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    pub name: String,
    pub ifindex: u32,
    pub mode: Mode,
}

/// Attaches the program to an interface, or puts it in the place of the one that a former daemon pinned there, also among
/// the pins of another layout: no packet meets neither.
///
/// # Errors
/// When the driver (in `native` mode) or the kernel refuses.
pub fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    others: Option<&Pins>,
    netns: u64,
    (name, ifindex): (&str, u32),
    wanted: AttachMode,
) -> Result<Attachment> {
    let attached = |mode| Attachment {
        name: name.to_owned(),
        ifindex,
        mode,
    };
    let mut former = None;
    let links = pins.links().into_iter();
    let mut links = links.chain(others.into_iter().flat_map(Pins::links));
    let pinned = links.find(|pin| pin.ifindex == ifindex && pin.netns == netns);
    if let Some(pin) = pinned {
        if suits(pin.mode, wanted) {
            match replace(ebpf, &pin) {
                Ok(()) => {
                    let path = pins.link(pin.mode, ifindex, netns);
                    if pin.path != path {
                        fs::rename(&pin.path, &path)
                            .with_context(|| format!("move the pin {}", pin.path.display()))?;
                    }
                    info!(
                        interface = name,
                        mode = pin.mode.name(),
                        "took over the attached program"
                    );
                    return Ok(attached(pin.mode));
                }
                // The interface was deleted and another one has its number.
                Err(error) => {
                    info!(interface = name, %error, "the pinned link is dead: attaching anew");
                }
            }
        }
        remove(&pin)?;
        former = Some(pin.mode);
    }
    let mode = match wanted {
        AttachMode::Native => new(ebpf, pins, netns, ifindex, Mode::Native).map(|()| Mode::Native),
        AttachMode::Generic => new(ebpf, pins, netns, ifindex, Mode::Generic).map(|()| Mode::Generic),
        AttachMode::Auto => match new(ebpf, pins, netns, ifindex, Mode::Native) {
            Ok(()) => Ok(Mode::Native),
            Err(error) => {
                warn!(
                    interface = name,
                    error = %format!("{error:#}"),
                    "the driver does not run XDP programs: falling back to generic mode, which is several times slower"
                );
                new(ebpf, pins, netns, ifindex, Mode::Generic).map(|()| Mode::Generic)
            }
        },
    };
    if let (Err(_), Some(former)) = (&mode, former) {
        // It ran in another mode before, and goes on so.
        new(ebpf, pins, netns, ifindex, former).context("attach again as before")?;
    }
    let mode = mode.with_context(|| {
        format!(
            "attach the program to {name} (is another XDP program attached? `ip link show dev {name}` tells; \
             `ip link set dev {name} xdp off` removes it)"
        )
    })?;
    if wanted == AttachMode::Generic {
        warn!(
            interface = name,
            "attached in generic mode, which is several times slower than native"
        );
    } else {
        info!(interface = name, mode = mode.name(), "attached");
    }
    Ok(attached(mode))
}

fn suits(mode: Mode, wanted: AttachMode) -> bool {
    match wanted {
        AttachMode::Auto => true,
        AttachMode::Native => mode == Mode::Native,
        AttachMode::Generic => mode == Mode::Generic,
    }
}

fn replace(ebpf: &mut Ebpf, pin: &LinkPin) -> Result<()> {
    let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(&pin.path)?))?;
    program(ebpf, Stage::Known.program())?.attach_to_link(link)?;
    Ok(())
}

fn new(ebpf: &mut Ebpf, pins: &Pins, netns: u64, ifindex: u32, mode: Mode) -> Result<()> {
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let program = program(ebpf, Stage::Known.program())?;
    let id = program.attach_to_if_index(ifindex, flags)?;
    let link = program.take_link(id)?;
    let link: FdLink = link.try_into()?;
    let path = pins.link(mode, ifindex, netns);
    link.pin(&path)
        .with_context(|| format!("pin the link as {}", path.display()))?;
    Ok(())
}

/// Detaches a pinned link, whoever else holds it, and removes its pin.
///
/// # Errors
/// When the pin cannot be removed.
pub fn remove(pin: &LinkPin) -> Result<()> {
    // A link whose interface has gone is detached already.
    let _ = sys::detach_pinned_link(&pin.path);
    unpin(&pin.path)
}

fn unpin(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("remove the pin {}", path.display()))
}
