//! The capture sockets and their filter, opened while the process still has rights.

use std::os::fd::{AsFd, OwnedFd};

use super::Failure;
use crate::core::door::first_steps::HeldSteps;
use crate::core::keyring::Secret;
use crate::core::sequence::first_steps::FirstSteps;
use crate::edge::bpf::{self, FilterSpec};
use crate::edge::capture::{Capture, Filters};
use crate::edge::confine::Limitation;
use crate::edge::ebpf::{self, FirstStepMap, NotLoaded, OwnAddresses, TagMap, XdpMap};

/// What the kernel's filter needs to know tags.
pub(super) struct KernelTags {
    pub(super) map: Result<TagMap, NotLoaded>,
    /// The key of the mask of knocks.
    pub(super) mask: Secret<32>,
}

/// A program for interfaces, not yet at any, and the addresses that it goes by: none so far.
pub(super) struct EarlyFilter {
    pub(super) program: OwnedFd,
    pub(super) addresses: OwnAddresses,
}

impl KernelTags {
    /// The program that drops junk at interfaces. The gatekeeper says that there is none.
    pub(super) fn early_filter(&self, port: u16) -> Option<EarlyFilter> {
        let tags = self.map.as_ref().ok()?;
        let map = XdpMap::new().ok()?;
        let program = map.load(port, &tags.filter(self.mask.expose())).ok()?;
        Some(EarlyFilter { program, addresses: map.addresses })
    }
}

/// What the kernel's filter may do beside the classic one, where the kernel allows it.
pub(super) struct KernelFilter {
    pub(super) tags: Option<KernelTags>,
    /// The first steps that it may hold.
    pub(super) first_steps: HeldSteps,
    /// Random, for their table.
    pub(super) seed: u64,
    /// True if doors are open to IPv6.
    pub(super) ipv6: bool,
}

pub(super) struct Captures {
    /// One for each interface. Nothing is read from them yet.
    pub(super) captures: Vec<Option<Capture>>,
    /// What they lack, if their filter does not know tags.
    pub(super) lacks: Option<Limitation>,
    /// The first steps that the filter of each of them can hold.
    pub(super) first_steps: Option<FirstSteps>,
}

/// Opens a capture socket for each interface.
pub(super) fn open_captures(
    interfaces: &[u32], spec: &FilterSpec, filter: KernelFilter,
) -> Result<Captures, Failure> {
    let KernelFilter { tags, first_steps, seed, ipv6 } = filter;
    let first_steps = match first_steps.first.is_empty() {
        true => None,
        // It does without, as where it knows no tags.
        false => FirstStepMap::new(first_steps, seed).ok(),
    };
    let knows_tags = tags.is_some();
    let program = load(spec, tags, first_steps.as_ref(), ipv6);
    let mut lacks = match &program {
        None | Some(Ok(_)) => None,
        Some(Err(NotLoaded::Forbidden)) => Some(Limitation::TagsForbidden),
        Some(Err(NotLoaded::Refused { .. })) => Some(Limitation::TagsRefused),
    };
    let loaded = program.as_ref().and_then(|program| program.as_ref().ok());
    let classic = bpf::program(spec);
    let filters =
        Filters { classic: &classic, ebpf: loaded.map(AsFd::as_fd), outgoing: spec.outgoing };
    let mut has_program = loaded.is_some();
    let mut captures = Vec::with_capacity(interfaces.len());
    for (capture, interface) in interfaces.iter().enumerate() {
        let opened = Capture::open(*interface, &filters);
        let opened = opened.map_err(|why| Failure::Socket { capture, why })?;
        if loaded.is_some() && !opened.has_ebpf {
            lacks = Some(Limitation::TagsRefused);
            has_program = false;
        }
        captures.push(Some(opened));
    }
    let first_steps = first_steps.filter(|_| has_program).map(|map| map.first_steps);
    // Without sealed knocks there are no tags to know.
    Ok(Captures { captures, lacks: lacks.filter(|_| knows_tags), first_steps })
}

/// `None` if the program would do no more than the classic filter.
fn load(
    spec: &FilterSpec, tags: Option<KernelTags>, first_steps: Option<&FirstStepMap>, ipv6: bool,
) -> Option<Result<OwnedFd, NotLoaded>> {
    let hold = first_steps.map(|map| map.filter(ipv6));
    match tags {
        Some(KernelTags { map: Ok(map), mask }) => {
            Some(ebpf::load_filter(spec, Some(&map.filter(mask.expose())), hold.as_ref()))
        }
        Some(KernelTags { map: Err(why), .. }) => Some(Err(why)),
        None => hold.map(|hold| ebpf::load_filter(spec, None, Some(&hold))),
    }
}
