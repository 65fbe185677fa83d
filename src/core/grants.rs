//! The list of live grants, and the kernel elements that it amounts to.
//! Who may have one is left to `policy`, putting elements into the kernel to `edge::firewall`.
