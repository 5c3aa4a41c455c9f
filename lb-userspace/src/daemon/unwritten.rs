//! What the maps lack when a step of the writer has failed.

use lb_core::image::TableOp;

/// Steps of a batch that failed, as far as no image of the tables has them.
#[derive(Debug, Default)]
pub struct Unwritten(Vec<TableOp>);

impl Unwritten {
    /// Notes what is to be done again of a batch.
    pub fn note(&mut self, steps: &[TableOp]) {
        let emptied = steps.iter();
        let emptied = emptied.filter(|step| matches!(step, TableOp::Buckets { .. }));
        self.0.extend(emptied.cloned());
    }

    /// All that is to be written: whoever had a run of buckets before must not have the flows of its next application.
    pub fn again(&self, image: Vec<TableOp>) -> Vec<TableOp> {
        self.0.iter().cloned().chain(image).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::Ip;

    #[test]
    fn what_no_image_has_comes_first() {
        let mut unwritten = Unwritten::default();
        let emptied = TableOp::Buckets { base: 64, count: 16 };
        let address = TableOp::SnatAddress {
            index: 1,
            address: Ip::default(),
        };
        unwritten.note(&[TableOp::Grace, emptied.clone(), address.clone()]);
        unwritten.note(std::slice::from_ref(&address));
        assert_eq!(unwritten.again(vec![address.clone()]), [emptied, address]);
    }
}
