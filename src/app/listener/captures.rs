//! The capture sockets and their filter, opened while the process still has rights.

use std::os::fd::AsFd;

use super::Failure;
use crate::core::keyring::Secret;
use crate::edge::bpf::{self, FilterSpec};
use crate::edge::capture::{Capture, Filters};
use crate::edge::confine::Limitation;
use crate::edge::ebpf::{NotLoaded, TagMap};

/// What the kernel's filter needs to know tags.
pub(super) struct KernelTags {
    pub(super) map: Result<TagMap, NotLoaded>,
    /// The key of the mask of knocks.
    pub(super) mask: Secret<32>,
}

/// Opens a capture socket for each interface. Nothing is read from them yet. Also says what they
/// lack, if their filter does not know tags.
pub(super) fn open_captures(
    interfaces: &[u32], spec: &FilterSpec, tags: Option<KernelTags>,
) -> Result<(Vec<Option<Capture>>, Option<Limitation>), Failure> {
    let classic = bpf::program(spec);
    let program = tags.map(|KernelTags { map, mask }| map?.load(spec, mask.expose()));
    let mut lacks = match &program {
        None | Some(Ok(_)) => None,
        Some(Err(NotLoaded::Forbidden)) => Some(Limitation::TagsForbidden),
        Some(Err(NotLoaded::Refused { .. })) => Some(Limitation::TagsRefused),
    };
    let loaded = program.as_ref().and_then(|program| program.as_ref().ok());
    let with_tags = loaded.map(AsFd::as_fd);
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
