//! The kernel's tick counter, which flow entries are stamped with.

use super::object::program;
use anyhow::{Result, bail};
use aya::Ebpf;
use aya::programs::{TestRun, TestRunOptions};
use lb_common::abi::maps::CLOCK;
use std::time::Duration;

/// Converts the monotonic clock to jiffies.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Jiffies per second (the kernel's CONFIG_HZ).
    pub hz: u32,
    jiffies: u64,
    nanoseconds: u64,
}

/// The values that CONFIG_HZ can have.
const RATES: [u32; 4] = [100, 250, 300, 1000];

impl Clock {
    /// Reads the kernel's clocks twice, 60 ms apart, and concludes the tick rate.
    ///
    /// # Errors
    /// When the kernel cannot run the clock program.
    pub fn measure(ebpf: &mut Ebpf) -> Result<Self> {
        program(ebpf, CLOCK)?.load()?;
        let (first, start) = sample(ebpf)?;
        std::thread::sleep(Duration::from_millis(60));
        let (jiffies, nanoseconds) = sample(ebpf)?;
        let measured = (jiffies - first) as f64 * 1e9 / (nanoseconds - start) as f64;
        let nearest = |rate: &u32| (f64::from(*rate).ln() - measured.ln()).abs();
        let hz = RATES
            .into_iter()
            .min_by(|a, b| nearest(a).total_cmp(&nearest(b)))
            .unwrap_or(250);
        Ok(Self {
            hz,
            jiffies,
            nanoseconds,
        })
    }

    /// The low 32 bits of the present jiffies.
    #[must_use]
    pub fn now(&self) -> u32 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = (now.tv_sec as u64)
            .saturating_mul(1_000_000_000)
            .saturating_add(now.tv_nsec as u64);
        let passed = now.saturating_sub(self.nanoseconds) / (1_000_000_000 / u64::from(self.hz));
        self.jiffies.wrapping_add(passed) as u32
    }

    /// A number of jiffies as time.
    #[must_use]
    pub fn duration(&self, jiffies: u32) -> Duration {
        Duration::from_secs(1) * jiffies / self.hz
    }
}

fn sample(ebpf: &mut Ebpf) -> Result<(u64, u64)> {
    let frame = [0; 64];
    let mut output = [0; 64];
    let options = TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut output),
        ..TestRunOptions::new()
    };
    program(ebpf, CLOCK)?.test_run(options)?;
    let ([jiffies, nanoseconds], _): ([[u8; 8]; 2], _) = match output.first_chunk::<16>() {
        Some(bytes) => (bytemuck::cast(*bytes), ()),
        None => bail!("the clock program wrote nothing"),
    };
    Ok((u64::from_ne_bytes(jiffies), u64::from_ne_bytes(nanoseconds)))
}
