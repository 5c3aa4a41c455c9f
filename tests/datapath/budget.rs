//! What each program may be at most: instructions, and calls of the kernel's helpers among them. Each call costs more than a
//! dozen of other instructions, so one more on the way of every packet shows here before it shows in a benchmark.

use lb_userspace::datapath::object::OBJECT;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::collections::BTreeMap;

/// Bytes of an instruction; opcodes of a load that takes two of them, and of a call; what a call's source register says of
/// one to the program's own code (Linux, include/uapi/linux/bpf.h).
const INSTRUCTION: usize = 8;
const LOAD_64: u8 = 0x18;
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;

/// Where functions stand that programs call.
const FUNCTIONS: &str = ".text";
/// Programs, their instructions and their helper calls at most: some tenth above what they are. Lookups in arrays count as
/// calls, though the kernel makes instructions of them.
#[rustfmt::skip]
const BUDGETS: [(&str, usize, usize); 16] = [
    ("lb", 6_450, 99),
    ("lb_traced", 6_650, 100),
    ("lb_admit", 3_250, 67),
    ("lb_select", 950, 40),
    ("lb_connect", 4_900, 125),
    ("lb_retire", 4_050, 126),
    ("lb_young", 3_000, 83),
    ("lb_send", 2_200, 37),
    ("lb_wrap", 10, 0),
    ("lb_reply", 1_650, 30),
    ("lb_icmp", 5_350, 81),
    ("lb_fragment", 2_750, 62),
    ("lb_report", 800, 11),
    ("lb_tap", 500, 12),
    ("lb_clock", 20, 2),
    (".text", 6_150, 61),
];

/// What a program consists of.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    instructions: usize,
    helper_calls: usize,
}

fn size(code: &[u8]) -> Size {
    let mut size = Size::default();
    let mut instructions = code.chunks_exact(INSTRUCTION);
    while let Some(&[opcode, registers, ..]) = instructions.next() {
        size.instructions += 1;
        match opcode {
            LOAD_64 => {
                instructions.next();
            }
            CALL if registers >> 4 != PSEUDO_CALL => size.helper_calls += 1,
            _ => {}
        }
    }
    size
}

/// By program; functions together are one.
fn sizes() -> BTreeMap<String, Size> {
    let file = object::File::parse(OBJECT).unwrap();
    let mut sizes: BTreeMap<String, Size> = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        let from = (symbol.address() - section.address()) as usize;
        let code = &section.data().unwrap()[from..][..symbol.size() as usize];
        let program = match section.name().unwrap() {
            FUNCTIONS => FUNCTIONS,
            _ => symbol.name().unwrap(),
        };
        let (sum, own) = (sizes.entry(program.to_owned()).or_default(), size(code));
        sum.instructions += own.instructions;
        sum.helper_calls += own.helper_calls;
    }
    sizes
}

#[test]
fn programs_keep_to_their_budgets() {
    let mut over = Vec::new();
    for (program, size) in sizes() {
        let budget = BUDGETS.into_iter().find(|(name, ..)| *name == program);
        let Some((_, instructions, helper_calls)) = budget else {
            over.push(format!("{program} has no budget: {size:?}"));
            continue;
        };
        println!("{program}: {size:?}");
        let parts = [
            ("instructions", size.instructions, instructions),
            ("helper calls", size.helper_calls, helper_calls),
        ];
        for (what, found, budget) in parts.into_iter().filter(|(_, found, budget)| found > budget) {
            over.push(format!("{program}: {found} {what}, more than {budget}"));
        }
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}

#[test]
fn what_has_a_budget_is_there() {
    let sizes = sizes();
    for (program, ..) in BUDGETS {
        assert!(sizes.contains_key(program), "{program}");
    }
}

#[test]
fn calls_are_told_from_loads() {
    let code = [
        [LOAD_64, 0, 0, 0, CALL, 0, 0, 0],
        // Second half of the load.
        [CALL, 0, 0, 0, 0, 0, 0, 0],
        [CALL, 0, 0, 0, 1, 0, 0, 0],
        [CALL, PSEUDO_CALL << 4, 0, 0, 1, 0, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    let size = size(code.as_flattened());
    assert_eq!((size.instructions, size.helper_calls), (4, 1));
}
