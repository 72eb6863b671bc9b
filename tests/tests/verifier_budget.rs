//! How much work each program is for the verifier: growth is a decision, not an accident.

use flannel_common::globals::{WIRE_IPIP, WIRE_UDP};
use flannel_common::program::Program;
use flannel_tests::packet::Node;
use rstest::rstest;

/// Verified instructions, as `bpf_prog_info` reports them. Below 4,700 each.
#[rstest]
#[case(Program::OverlayTx, 2_350)]
#[case(Program::OverlayCatch, 1_600)]
#[case(Program::UplinkRx, 4_000)]
#[case(Program::PodTx, 3_950)]
#[case(Program::PodRx, 1_500)]
#[case(Program::OverlayRx, 1_550)]
#[case(Program::XdpRx, 1_300)]
#[case(Program::UplinkXdp, 2_000)]
#[case(Program::UplinkTx, 4_690)]
#[case(Program::UplinkSnatRx, 3_950)]
#[case(Program::OverlaySnatTx, 3_750)]
#[case(Program::OverlaySnatRx, 4_550)]
#[case(Program::SnatOpen, 4_480)]
#[case(Program::SnatOddTx, 2_750)]
#[case(Program::SnatOddRx, 2_350)]
#[case(Program::DirectRx, 2_000)]
#[case(Program::DirectTx, 1_480)]
#[case(Program::OutsideTx, 1_950)]
#[case(Program::OutsideRx, 1_850)]
#[case(Program::BridgeRx, 800)]
#[case(Program::AnchorRx, 1_700)]
#[case(Program::FrameRx, 200)]
#[case(Program::UplinkTxIp, 4_050)]
#[case(Program::SnatOpenIp, 4_490)]
#[case(Program::SnatOddTxIp, 2_850)]
#[case(Program::SnatRoom, 4_600)]
fn verified_instructions_stay_below_the_ceiling(#[case] program: Program, #[case] ceiling: u32) {
    let mut node = Node::default().load();
    let info = match program {
        Program::UplinkXdp => node.xdp().info(),
        program => node.program(program).info(),
    }
    .unwrap();
    let verified = info
        .verified_instruction_count()
        .expect("kernel 5.16 or newer");
    println!(
        "{}: {verified} verified instructions, ceiling {ceiling}",
        program.name()
    );
    assert!(
        verified <= ceiling,
        "{}: {verified} > {ceiling}",
        program.name()
    );
    assert!(ceiling < 5_000);
}

/// Those that the backend udp has of its own.
#[rstest]
#[case(Program::OverlayTx, 800)]
#[case(Program::OverlayCatch, 1_250)]
#[case(Program::UplinkRx, 3_700)]
#[case(Program::PodTx, 2_950)]
fn udp_s_own_stay_below_theirs(#[case] program: Program, #[case] ceiling: u32) {
    let mut node = Node::udp().load();
    let info = node.program(program).info().unwrap();
    let verified = info.verified_instruction_count().unwrap();
    let name = program.symbol(WIRE_UDP);
    println!("{name}: {verified} verified instructions, ceiling {ceiling}");
    assert!(verified <= ceiling, "{name}: {verified} > {ceiling}");
}

/// Those that the backend ipip has of its own.
#[rstest]
#[case(Program::OverlayTx, 2_400)]
#[case(Program::OverlayCatch, 1_600)]
#[case(Program::UplinkRx, 3_800)]
#[case(Program::PodTx, 3_850)]
fn ipip_s_own_stay_below_theirs(#[case] program: Program, #[case] ceiling: u32) {
    let mut node = Node::ipip().load();
    let info = node.program(program).info().unwrap();
    let verified = info.verified_instruction_count().unwrap();
    let name = program.symbol(WIRE_IPIP);
    println!("{name}: {verified} verified instructions, ceiling {ceiling}");
    assert!(verified <= ceiling, "{name}: {verified} > {ceiling}");
}

/// Also on kernels before 6.7, which count the stack of each function in steps of 32 bytes.
#[test]
fn every_program_is_taken() {
    for node in [Node::default(), Node::udp(), Node::ipip()] {
        let mut node = node.load_snat();
        for program in Program::ALL {
            match program {
                Program::UplinkXdp => node.xdp().info(),
                program => node.program(program).info(),
            }
            .unwrap();
        }
    }
}

#[test]
fn every_program_has_a_ceiling() {
    assert_eq!(
        Program::ALL.len(),
        26,
        "add the new program to the list above"
    );
}

/// It is loaded only while somebody listens.
#[test]
fn the_listener_s_program_stays_below_its_ceiling() {
    let mut node = Node::default().load();
    let info = node.teller().info().unwrap();
    let verified = info.verified_instruction_count().unwrap();
    println!("tell: {verified} verified instructions");
    assert!(verified <= 3_000, "{verified}");
}
