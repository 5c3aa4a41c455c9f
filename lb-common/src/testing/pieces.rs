//! Cuts packets into fragments, and puts fragments together again: by code that shares nothing with the pipeline.

use super::Frame;
use super::build::{PacketBuilder, extension, sum};

/// What is under a link header: where it starts, and where the fragmentable part starts.
struct Layout {
    v4: bool,
    network: usize,
    /// Where the fragment header stands, or would; IPv4: the end of the header.
    cut: usize,
    /// Length of the IP packet.
    end: usize,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// As on the wire; IPv4: in the upper two bytes.
    pub identification: [u8; 4],
    /// In bytes.
    pub offset: usize,
    pub more: bool,
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn layout(bytes: &[u8]) -> Layout {
    let mut network = 14;
    while matches!(word(bytes, network - 2), 0x8100 | 0x88a8) {
        network += 4;
    }
    let v4 = bytes[network] >> 4 == 4;
    if v4 {
        let cut = network + usize::from(bytes[network] & 15) * 4;
        let end = network + word(bytes, network + 2);
        return Layout {
            v4,
            network,
            cut,
            end,
        };
    }
    let end = network + 40 + word(bytes, network + 4);
    let (mut cut, mut next) = (network + 40, bytes[network + 6]);
    while matches!(next, 0 | 43 | 51 | 60) {
        let length = usize::from(bytes[cut + 1]);
        let step = if next == 51 {
            (length + 2) * 4
        } else {
            (length + 1) * 8
        };
        next = bytes[cut];
        cut += step;
    }
    Layout {
        v4,
        network,
        cut,
        end,
    }
}

/// Where the byte stands that says what the extension header at `cut` is.
fn next_header(bytes: &[u8], layout: &Layout) -> usize {
    let (mut at, mut header) = (layout.network + 6, layout.network + 40);
    while header < layout.cut {
        let length = usize::from(bytes[header + 1]);
        let step = if bytes[at] == 51 {
            (length + 2) * 4
        } else {
            (length + 1) * 8
        };
        at = header;
        header += step;
    }
    at
}

fn checksum(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let checksum = !sum(&[header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Cuts a packet's payload at these offsets (multiples of 8, ascending). `identification` is as on the wire; IPv4 has only
/// its first two bytes.
///
/// # Panics
/// The packet is no IP packet, or shorter than the last cut.
#[must_use]
pub fn cut(packet: &PacketBuilder, identification: [u8; 4], cuts: &[usize]) -> Vec<Frame> {
    let Frame(whole) = packet.frame();
    let layout = layout(&whole);
    let payload = &whole[layout.cut..layout.end];
    let starts: Vec<usize> = [0].into_iter().chain(cuts.iter().copied()).collect();
    let ends = cuts.iter().copied().chain([payload.len()]);
    let pieces = starts.into_iter().zip(ends);
    pieces
        .map(|(start, end)| {
            let more = end < payload.len();
            let mut frame = whole[..layout.cut].to_vec();
            let units = (start / 8) as u16;
            if layout.v4 {
                let flags = units | if more { 0x2000 } else { 0 };
                let header = &mut frame[layout.network..];
                let total = (layout.cut - layout.network + end - start) as u16;
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[4..6].copy_from_slice(&identification[..2]);
                header[6..8].copy_from_slice(&flags.to_be_bytes());
                checksum(header);
            } else {
                let at = next_header(&whole, &layout);
                let next = std::mem::replace(&mut frame[at], extension::FRAGMENT);
                let [high, low] = (units << 3 | u16::from(more)).to_be_bytes();
                frame.extend([next, 0, high, low]);
                frame.extend(identification);
                let length = (frame.len() - layout.network - 40 + end - start) as u16;
                frame[layout.network + 4..layout.network + 6].copy_from_slice(&length.to_be_bytes());
            }
            frame.extend(&payload[start..end]);
            Frame(frame)
        })
        .collect()
}

/// A fragment's place; `None` when it is none.
///
/// # Panics
/// It is no IP packet.
#[must_use]
pub fn place(Frame(bytes): &Frame) -> Option<Place> {
    let Layout { v4, network, cut, .. } = layout(bytes);
    if v4 {
        let field = word(bytes, network + 6);
        (field & 0x3fff != 0).then(|| Place {
            identification: [bytes[network + 4], bytes[network + 5], 0, 0],
            offset: (field & 0x1fff) * 8,
            more: field & 0x2000 != 0,
        })
    } else {
        let at = next_header(bytes, &layout(bytes));
        (bytes[at] == extension::FRAGMENT).then(|| Place {
            identification: [bytes[cut + 4], bytes[cut + 5], bytes[cut + 6], bytes[cut + 7]],
            offset: word(bytes, cut + 2) & 0xfff8,
            more: word(bytes, cut + 2) & 1 != 0,
        })
    }
}

/// Puts the fragments of one datagram together, in whatever order they are. IPv4: the whole has the identification 0.
///
/// # Panics
/// They do not fit together: a part is missing, doubled, or of another datagram.
#[must_use]
pub fn join(fragments: &[Frame]) -> Frame {
    let mut parts: Vec<(Place, &Frame)> = fragments
        .iter()
        .map(|frame| (place(frame).expect("a fragment"), frame))
        .collect();
    parts.sort_by_key(|(place, _)| place.offset);
    let first = &parts[0].1.0;
    let layout_of_first = layout(first);
    let mut whole = first[..layout_of_first.cut].to_vec();
    let mut payload: Vec<u8> = Vec::new();
    let count = parts.len();
    for (index, (part, Frame(bytes))) in parts.iter().enumerate() {
        let layout = layout(bytes);
        let skipped = if layout.v4 { 0 } else { 8 };
        assert_eq!(part.identification, parts[0].0.identification, "of one datagram");
        assert_eq!(part.offset, payload.len(), "no gap and no overlap");
        assert_eq!(part.more, index + 1 < count, "the last one says so");
        if layout.v4 {
            assert_eq!(
                sum(&[&bytes[layout.network..layout.cut]]),
                0xffff,
                "a right header"
            );
        }
        payload.extend(&bytes[layout.cut + skipped..layout.end]);
    }
    let network = layout_of_first.network;
    if layout_of_first.v4 {
        let total = (layout_of_first.cut - network + payload.len()) as u16;
        let header = &mut whole[network..];
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..8].copy_from_slice(&[0; 4]);
        checksum(header);
    } else {
        let at = next_header(first, &layout_of_first);
        whole[at] = first[layout_of_first.cut];
        let length = (whole.len() - network - 40 + payload.len()) as u16;
        whole[network + 4..network + 6].copy_from_slice(&length.to_be_bytes());
    }
    whole.extend(payload);
    Frame(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check::see;
    use crate::testing::scenario::at;

    #[test]
    fn what_is_cut_can_be_joined() {
        let payload: Vec<u8> = (0..200).collect();
        let v4 = PacketBuilder::udp(at("192.0.2.1:1"), at("192.0.2.2:2")).options(&[1; 8]);
        let v6 = PacketBuilder::udp(at("[2001:db8::1]:1"), at("[2001:db8::2]:2"))
            .padding_extension(extension::HOP_BY_HOP)
            .padding_extension(extension::DESTINATION_OPTIONS);
        for packet in [v4, v6] {
            let packet = packet.tags(&[7]).payload(&payload);
            let mut pieces = cut(&packet, [1, 2, 3, 4], &[8, 64, 128]);
            assert_eq!(pieces.len(), 4);
            let places: Vec<Place> = pieces.iter().map(|piece| place(piece).unwrap()).collect();
            assert_eq!(
                places.iter().map(|place| place.offset).collect::<Vec<_>>(),
                [0, 8, 64, 128]
            );
            assert!(places.iter().all(|place| place.identification[..2] == [1, 2]));
            pieces.reverse();
            let whole = join(&pieces);
            assert_eq!(see(&whole).payload, payload);
            assert_eq!(place(&packet.frame()), None);
            assert_eq!(whole.0.len(), packet.frame().0.len());
        }
    }
}
