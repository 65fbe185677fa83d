//! English.

use super::Words;

pub const WORDS: Words = Words {
    language: "Language",
    profile: "Profile",
    service: "Service",
    user: "User name there (optional)",
    knock: "Knock",
    connect: "Connect",
    end_grant: "End the grant",
    knocking: "Knocking at {gateway} …",
    closing: "Ending the grant …",
    joining: "Asking the gateway …",
    invite: "Use an invitation …",
    granted: "{service} is open",
    granted_ports: "{address} may reach {ports} at {gateway} until {until}.",
    granted_service: "{address} may use {service} at {gateway} until {until}.",
    once: "One connection only.",
    left: "{time} left",
    ended: "The grant has ended",
    ended_advice: "Knock again to open a new connection.",
    closed: "Closed",
    closed_text: "You have no grant for {service} at {gateway} any more.",
    partly: "{service} is open over one address only",
    refused: "Refused: nothing was opened",
    no_answer: "No answer",
    no_answer_text: "{gateway} did not answer {knocks} knocks. \
        {service} may be open all the same.\n\
        • Does this network let UDP through? Try another one.\n\
        • Is the gateway running at this address? Ask its admin.\n\
        • Is your key still enrolled there? Ask its admin.\n\
        • Did you knock very often just now? Then wait a minute.\n\
        A gateway answers nothing that it does not accept, so it cannot say which.",
    not_sent: "Nothing was sent",
    denied: "The gateway does not let this key open {service}. Ask its admin if it should.",
    full: "The limit of grants is reached, for you or for {service} as a whole. Wait until one \
        ends, or end yours.",
    clock: "The clock of this computer is too far off. Set the clock, then knock again.",
    challenge: "The gateway asked for a second knock, and it did not arrive in time. Knock again; \
        if you have knocked very often just now, wait a minute.",
    trouble: "The gateway could not open {service}. Tell its admin: `toctocd status` says why. \
        If the guard is off there, the service needs no knock: just connect.",
    replaced: "The gateway sees you as {observed}, and that is not your address: a device in front \
        of the gateway replaces everybody's. A grant for it would let everybody in. Tell the \
        gateway's admin.",
    unnamed: "The knock came from {observed} and named no address.",
    everybodys: "The gateway grants {observed} to nobody: it may stand for everybody. Tell the \
        gateway's admin.",
    public: "The knock named {named}, but came from {observed}: a device on the way replaced your \
        public address. Ask the gateway's admin whose address that is.",
    other: "The knock named {named}, but came from {observed}: somebody on the way may have \
        redirected it. Ask the gateway's admin. If {observed} is the address of your own network, \
        use: toctoc open --source {observed}",
    place: "Connect your own program to {place}",
    no_program: "No program found for this: {programs}. Install one, or connect your own program \
        to {place}.",
    program_failed: "{program} could not be started: {error}",
    ssh_ended: "ssh has ended. Press Enter to close this window.",
    copy: "Copy",
    copied: "Copied",
    user_wrong: "A user name has letters, digits, and . _ - @ \\ only.",
    passphrase: "Passphrase of {place}",
    passphrase_wanted: "Passphrase wanted",
    wrong_passphrase: "Wrong passphrase: try again",
    ok: "OK",
    cancel: "Cancel",
    touch: "Touch your security key ({key})",
    agent: "Waiting for the ssh-agent",
    join_title: "Use an invitation",
    join_text: "The admin of a gateway has sent you a line that begins with toctoc:. Paste it \
        here. Treat it like a password: whoever reads it first can use it.",
    line: "Invitation",
    join: "Join",
    key_new: "You have no key yet. One is made on this computer. A passphrase protects it if \
        somebody copies its file; you may leave both fields empty.",
    new_passphrase: "New passphrase",
    repeat_passphrase: "The same again",
    passphrases_differ: "The two passphrases differ.",
    joined: "You have joined",
    joined_text: "Your key is enrolled at the gateway of `{profile}`. Press Knock.",
    join_refused: "You have not joined",
    pending: "Your key waits for approval",
    pending_text: "Send these words to the gateway's admin, by another way than the invitation \
        came:",
    ask_again: "Ask again",
    // The client says these itself, in English.
    join_taken: "{details}",
    join_denied: "{details}",
    join_late: "{details}",
    join_trouble: "{details}",
    join_ended: "{details}",
    join_silence: "{details}",
    fault_no_key: "{details}",
    fault_passphrase: "{details}",
    fault_exposed: "{details}",
    fault_expired: "{details}",
    fault_invitation: "{details}",
    fault_impostor: "{details}",
    fault_unsigned: "{details}",
    fault_unreachable: "{details}",
    fault_name: "{details}",
    fault_input: "{details}",
    fault_other: "{details}",
    broken: "This profile cannot be used",
    ends_soon: "Your enrolment ends in {time}. Ask the gateway's admin to renew it.",
    no_profile: "You have no profile yet",
    idle: "Press Knock to open {service} for your address.",
    no_window: "No window can be opened: {error}\n\n\
        It needs a screen with OpenGL 2. Use the command line instead: toctoc --help",
};
