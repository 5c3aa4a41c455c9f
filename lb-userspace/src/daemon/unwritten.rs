//! What the maps lack when a step of the writer has failed.

use anyhow::Result;
use lb_core::image::TableOp;

/// Steps that were not executed, as far as no image of the tables has them.
#[derive(Debug, Default)]
pub struct Unwritten(Vec<TableOp>);

impl Unwritten {
    /// Executes a batch. What is left of one that fails is noted.
    ///
    /// # Errors
    /// Those of the step that failed.
    pub fn write(
        failed: &mut Option<Self>,
        steps: &[TableOp],
        mut step: impl FnMut(&TableOp) -> Result<()>,
    ) -> Result<()> {
        for (done, next) in steps.iter().enumerate() {
            if let Err(error) = step(next) {
                let left = steps.get(done..).unwrap_or_default().iter();
                let of_no_image =
                    left.filter(|step| matches!(step, TableOp::Buckets { .. } | TableOp::Unsettle { .. }));
                failed.get_or_insert_default().0.extend(of_no_image.cloned());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Executes what is left, each step once, because buckets that were emptied are in use; then those of the `image`.
    ///
    /// # Errors
    /// Those of the step that failed.
    pub fn write_again(
        &mut self,
        image: &[TableOp],
        mut step: impl FnMut(&TableOp) -> Result<()>,
    ) -> Result<()> {
        while let Some(next) = self.0.first() {
            step(next)?;
            self.0.remove(0);
        }
        image.iter().try_for_each(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::Ip;

    fn emptied(base: u32) -> TableOp {
        TableOp::Buckets { base, count: 16 }
    }

    /// Writes until a step fails.
    struct Kernel {
        written: Vec<TableOp>,
        refuses: Option<TableOp>,
    }

    impl Kernel {
        fn step(&mut self, step: &TableOp) -> Result<()> {
            anyhow::ensure!(self.refuses.as_ref() != Some(step), "no memory");
            self.written.push(step.clone());
            Ok(())
        }
    }

    #[test]
    fn what_no_image_has_is_executed_once_and_first() {
        let address = TableOp::SnatAddress {
            index: 1,
            address: Ip::default(),
        };
        let unsettled = TableOp::Unsettle { base: 0, count: 16 };
        let mut kernel = Kernel {
            written: Vec::new(),
            refuses: Some(address.clone()),
        };
        let mut failed = None;
        let batch = [emptied(64), address.clone(), emptied(96), unsettled.clone()];
        Unwritten::write(&mut failed, &batch, |step| kernel.step(step)).unwrap_err();
        let mut unwritten = failed.take().unwrap();
        assert_eq!(kernel.written, [emptied(64)]);
        // The image fails as the batch did.
        let image = [address.clone()];
        unwritten
            .write_again(&image, |step| kernel.step(step))
            .unwrap_err();
        kernel.refuses = None;
        unwritten.write_again(&image, |step| kernel.step(step)).unwrap();
        assert_eq!(kernel.written, [emptied(64), emptied(96), unsettled, address]);
        Unwritten::write(&mut failed, &batch, |step| kernel.step(step)).unwrap();
        assert!(failed.is_none());
    }
}
