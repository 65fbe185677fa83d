//! Both ends of the privileged pipe: a closed table of fixed-size messages over SOCK_SEQPACKET.
//! What they cause is left to `app`.
