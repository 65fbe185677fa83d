//! The capture sockets and their filter, opened while the process still has rights.

use std::os::fd::{AsFd, OwnedFd};

use super::Failure;
use crate::core::keyring::Secret;
use crate::edge::bpf::{self, FilterSpec};
use crate::edge::capture::{Capture, Filters};
use crate::edge::confine::Limitation;
use crate::edge::ebpf::{NotLoaded, OwnAddresses, TagMap, XdpMap};

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
    fn load(&self, spec: &FilterSpec) -> Result<OwnedFd, Limitation> {
        let loaded = match &self.map {
            Ok(map) => map.load(spec, self.mask.expose()),
            Err(why) => return Err(limitation(why)),
        };
        loaded.map_err(|why| limitation(&why))
    }

    /// The program that drops junk at interfaces. The gatekeeper says that there is none.
    pub(super) fn early_filter(&self, port: u16) -> Option<EarlyFilter> {
        let tags = self.map.as_ref().ok()?;
        let map = XdpMap::new().ok()?;
        let program = map.load(port, &tags.filter(self.mask.expose())).ok()?;
        Some(EarlyFilter { program, addresses: map.addresses })
    }
}

fn limitation(why: &NotLoaded) -> Limitation {
    match why {
        NotLoaded::Forbidden => Limitation::TagsForbidden,
        NotLoaded::Refused { .. } => Limitation::TagsRefused,
    }
}

/// Opens a capture socket for each interface. Nothing is read from them yet. Also says what they
/// lack, if their filter does not know tags.
pub(super) fn open_captures(
    interfaces: &[u32], spec: &FilterSpec, tags: Option<&KernelTags>,
) -> Result<(Vec<Option<Capture>>, Option<Limitation>), Failure> {
    let classic = bpf::program(spec);
    let (mut loaded, mut lacks) = (None, None);
    if let Some(tags) = tags {
        match tags.load(spec) {
            Ok(program) => loaded = Some(program),
            Err(limitation) => lacks = Some(limitation),
        }
    }
    let with_tags = loaded.as_ref().map(AsFd::as_fd);
    let filters = Filters { classic: &classic, with_tags, outgoing: spec.outgoing };
    let mut captures = Vec::with_capacity(interfaces.len());
    for (capture, interface) in interfaces.iter().enumerate() {
        let opened = Capture::open(*interface, &filters);
        let opened = opened.map_err(|why| Failure::Socket { capture, why })?;
        if loaded.is_some() && !opened.knows_tags {
            lacks = Some(Limitation::TagsRefused);
        }
        captures.push(Some(opened));
    }
    Ok((captures, lacks))
}
