//! What the maps lack when a step of the writer has failed.

use anyhow::Result;
use lb_core::image::TableOp;

/// Steps that no image of the tables has, of batches that have failed.
#[derive(Debug, Default)]
pub struct Unwritten {
    /// Each is executed once, because buckets that were emptied are in use, and before anything names them.
    emptied: Vec<TableOp>,
    /// Executed whenever a generation may name the buckets, until all it says is written: before, for its packets, and
    /// afterwards, for sweeps that had begun.
    unsettled: Vec<TableOp>,
}

impl Unwritten {
    /// Executes a batch, and what is left of those that `failed`. What is left of this one is noted there if it fails.
    ///
    /// # Errors
    /// Those of the step that failed.
    pub fn write(
        failed: &mut Option<Self>,
        steps: &[TableOp],
        mut step: impl FnMut(&TableOp) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        let mut execute = || -> Result<()> {
            if let Some(former) = failed {
                former.empty(&mut step)?;
            }
            for next in steps {
                if let Some(former) = failed.as_ref().filter(|_| goes_live(next)) {
                    former.unsettled.iter().try_for_each(&mut step)?;
                }
                step(next)?;
                done += 1;
            }
            Ok(())
        };
        let result = execute();
        if result.is_err() {
            failed.get_or_insert_default().note(steps, done);
        }
        result
    }

    /// Executes what is left; then the steps of the `image`, whose last one makes its generation live.
    ///
    /// # Errors
    /// Those of the step that failed.
    pub fn write_again(
        &mut self,
        image: &[TableOp],
        mut step: impl FnMut(&TableOp) -> Result<()>,
    ) -> Result<()> {
        self.empty(&mut step)?;
        // The generation may be live already.
        self.unsettled.iter().try_for_each(&mut step)?;
        let Some((live, records)) = image.split_last() else {
            return Ok(());
        };
        records.iter().try_for_each(&mut step)?;
        self.unsettled.iter().try_for_each(&mut step)?;
        step(live)
    }

    /// Notes a batch that failed after so many steps.
    fn note(&mut self, steps: &[TableOp], done: usize) {
        let left = steps.get(done..).unwrap_or_default();
        let emptied = |step: &&TableOp| matches!(step, TableOp::Buckets { .. });
        self.emptied.extend(left.iter().filter(emptied).cloned());
        // What was executed is undone by a sweep that finds no record yet.
        let again = if left.iter().any(goes_live) { steps } else { left };
        let unsettled = |step: &&TableOp| matches!(step, TableOp::Unsettle { .. });
        let again = again.iter().filter(unsettled);
        for step in again {
            if !self.unsettled.contains(step) {
                self.unsettled.push(step.clone());
            }
        }
    }

    fn empty(&mut self, mut step: impl FnMut(&TableOp) -> Result<()>) -> Result<()> {
        while let Some(next) = self.emptied.first() {
            step(next)?;
            self.emptied.remove(0);
        }
        Ok(())
    }
}

const fn goes_live(step: &TableOp) -> bool {
    matches!(step, TableOp::Settings(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::{Ip, Settings};

    fn emptied(base: u32) -> TableOp {
        TableOp::Buckets { base, count: 16 }
    }

    fn unsettled(base: u32) -> TableOp {
        TableOp::Unsettle { base, count: 16 }
    }

    fn record(index: u32) -> TableOp {
        let address = Ip::default();
        TableOp::SnatAddress { index, address }
    }

    fn live(generation: u32) -> TableOp {
        TableOp::Settings(Settings {
            generation,
            ..Settings::default()
        })
    }

    /// Writes until a step fails.
    #[derive(Default)]
    struct Kernel {
        failed: Option<Unwritten>,
    }

    impl Kernel {
        fn step(written: &mut Vec<TableOp>, refuses: Option<&TableOp>, step: &TableOp) -> Result<()> {
            anyhow::ensure!(refuses != Some(step), "no memory");
            written.push(step.clone());
            Ok(())
        }

        /// What a batch comes to that fails at a step, if at any.
        fn write(&mut self, batch: &[TableOp], refuses: Option<TableOp>) -> Vec<TableOp> {
            let mut written = Vec::new();
            let step = |step: &TableOp| Self::step(&mut written, refuses.as_ref(), step);
            let result = Unwritten::write(&mut self.failed, batch, step);
            assert_eq!(result.is_err(), refuses.is_some());
            written
        }

        fn write_again(&mut self, image: &[TableOp], refuses: Option<TableOp>) -> Vec<TableOp> {
            let mut written = Vec::new();
            let step = |step: &TableOp| Self::step(&mut written, refuses.as_ref(), step);
            let result = self.failed.as_mut().unwrap().write_again(image, step);
            assert_eq!(result.is_err(), refuses.is_some());
            written
        }
    }

    #[test]
    fn what_was_emptied_is_not_emptied_again() {
        let mut kernel = Kernel::default();
        let batch = [emptied(64), record(1), emptied(96), live(2)];
        assert_eq!(kernel.write(&batch, Some(record(1))), [emptied(64)]);
        let image = [record(1), live(2)];
        assert_eq!(kernel.write_again(&image, Some(record(1))), [emptied(96)]);
        assert_eq!(kernel.write_again(&image, None), image);
    }

    #[test]
    fn buckets_are_unsettled_where_their_records_are_written_later() {
        let mut kernel = Kernel::default();
        let batch = [record(1), unsettled(64), record(2), live(2)];
        kernel.write(&batch, Some(record(2)));
        let image = [record(1), record(2), live(2)];
        let before = [unsettled(64), record(1), record(2), unsettled(64)];
        assert_eq!(kernel.write_again(&image, Some(live(2))), before);
        assert_eq!(kernel.write_again(&image, None)[..4], before);
    }

    #[test]
    fn what_is_left_comes_before_what_a_later_batch_makes_live() {
        let mut kernel = Kernel::default();
        let batch = [record(1), emptied(32), unsettled(64), live(2)];
        assert!(kernel.write(&batch, Some(record(1))).is_empty());
        // One that makes nothing live, and fails as well.
        assert_eq!(kernel.write(&[record(2)], Some(record(2))), [emptied(32)]);
        let later = [record(3), live(3)];
        let expected = [record(3), unsettled(64), live(3)];
        assert_eq!(kernel.write(&later, None), expected);
        let again = [unsettled(64), record(1), unsettled(64), live(3)];
        assert_eq!(kernel.write_again(&[record(1), live(3)], None), again);
    }

    #[test]
    fn a_batch_that_fails_when_it_is_live_has_unsettled() {
        let mut kernel = Kernel::default();
        let batch = [unsettled(64), live(2), record(1)];
        kernel.write(&batch, Some(record(1)));
        assert_eq!(
            kernel.write_again(&[record(1), live(2)], None),
            [record(1), live(2)]
        );
        assert_eq!(Kernel::default().write(&batch, None), batch);
    }
}
