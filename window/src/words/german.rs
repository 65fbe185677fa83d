//! German.

use super::Words;

pub const WORDS: Words = Words {
    language: "Sprache",
    profile: "Profil",
    service: "Dienst",
    user: "Benutzername dort (freiwillig)",
    knock: "Anklopfen",
    connect: "Verbinden",
    end_grant: "Freigabe beenden",
    knocking: "Klopfe an bei {gateway} …",
    closing: "Beende die Freigabe …",
    joining: "Frage das Gateway …",
    invite: "Einladung verwenden …",
    granted: "{service} ist offen",
    granted_ports: "{address} erreicht {ports} an {gateway} bis {until}.",
    granted_service: "{address} darf {service} an {gateway} bis {until} benutzen.",
    once: "Nur eine Verbindung.",
    left: "noch {time}",
    ended: "Die Freigabe ist zu Ende",
    ended_advice: "Klopfen Sie für eine neue Verbindung noch einmal an.",
    closed: "Geschlossen",
    closed_text: "Sie haben an {gateway} keine Freigabe für {service} mehr.",
    partly: "{service} ist nur über eine Adresse offen",
    refused: "Abgelehnt: Es wurde nichts geöffnet",
    no_answer: "Keine Antwort",
    no_answer_text: "{gateway} hat auf {knocks}-maliges Klopfen nicht geantwortet. {service} kann \
        trotzdem offen sein.\n\
        • Lässt dieses Netz UDP durch? Versuchen Sie es in einem anderen.\n\
        • Läuft das Gateway unter dieser Adresse? Fragen Sie den Administrator.\n\
        • Ist Ihr Schlüssel dort noch eingetragen? Fragen Sie den Administrator.\n\
        • Haben Sie gerade sehr oft angeklopft? Dann warten Sie eine Minute.\n\
        Ein Gateway beantwortet nichts, was es nicht annimmt. Den Grund kann es also nicht nennen.",
    not_sent: "Es wurde nichts gesendet",
    denied: "Das Gateway lässt diesen Schlüssel {service} nicht öffnen. Fragen Sie den \
        Administrator, ob er es soll.",
    full: "Die Höchstzahl der Freigaben ist erreicht, für Sie oder für {service} insgesamt. Warten \
        Sie, bis eine endet, oder beenden Sie Ihre.",
    clock: "Die Uhr dieses Computers geht zu falsch. Stellen Sie die Uhr und klopfen Sie noch \
        einmal an.",
    challenge: "Das Gateway wollte ein zweites Klopfen, und das kam nicht rechtzeitig an. Klopfen \
        Sie noch einmal an. Haben Sie gerade sehr oft angeklopft, warten Sie eine Minute.",
    trouble: "Das Gateway konnte {service} nicht öffnen. Sagen Sie es dem Administrator: \
        `toctocd status` nennt dort den Grund. Ist der Schutz dort aus, braucht der Dienst kein \
        Klopfen: Verbinden Sie sich einfach.",
    replaced: "Das Gateway sieht Sie als {observed}, und das ist nicht Ihre Adresse: Ein Gerät vor \
        dem Gateway ersetzt die Adressen aller. Eine Freigabe dafür ließe alle herein. Sagen Sie \
        es dem Administrator des Gateways.",
    unnamed: "Das Klopfen kam von {observed} und nannte keine Adresse.",
    everybodys: "Das Gateway gibt {observed} für niemanden frei: Die Adresse kann für alle stehen. \
        Sagen Sie es dem Administrator des Gateways.",
    public: "Das Klopfen nannte {named}, kam aber von {observed}: Ein Gerät unterwegs hat Ihre \
        öffentliche Adresse ersetzt. Fragen Sie den Administrator, wessen Adresse das ist.",
    other: "Das Klopfen nannte {named}, kam aber von {observed}: Jemand unterwegs kann es \
        umgeleitet haben. Fragen Sie den Administrator. Ist {observed} die Adresse Ihres eigenen \
        Netzes, hilft: toctoc open --source {observed}",
    place: "Verbinden Sie Ihr eigenes Programm mit {place}",
    no_program: "Dafür wurde kein Programm gefunden: {programs}. Installieren Sie eines, oder \
        verbinden Sie Ihr eigenes Programm mit {place}.",
    program_failed: "{program} ließ sich nicht starten: {error}",
    ssh_ended: "ssh ist zu Ende. Enter schließt dieses Fenster.",
    copy: "Kopieren",
    copied: "Kopiert",
    user_wrong: "Ein Benutzername hat nur Buchstaben, Ziffern und . _ - @ \\.",
    passphrase: "Passphrase von {place}",
    passphrase_wanted: "Passphrase gefragt",
    wrong_passphrase: "Falsche Passphrase: noch einmal",
    ok: "OK",
    cancel: "Abbrechen",
    touch: "Berühren Sie Ihren Sicherheitsschlüssel ({key})",
    agent: "Warte auf den ssh-agent",
    join_title: "Einladung verwenden",
    join_text: "Der Administrator eines Gateways hat Ihnen eine Zeile geschickt, die mit toctoc: \
        beginnt. Fügen Sie sie hier ein. Behandeln Sie sie wie ein Passwort: Wer sie zuerst liest, \
        kann sie benutzen.",
    line: "Einladung",
    join: "Beitreten",
    key_new: "Sie haben noch keinen Schlüssel. Er wird auf diesem Computer erzeugt. Eine \
        Passphrase schützt ihn, falls jemand seine Datei kopiert. Beide Felder dürfen \
        leer bleiben.",
    new_passphrase: "Neue Passphrase",
    repeat_passphrase: "Noch einmal dieselbe",
    passphrases_differ: "Die beiden Passphrasen sind verschieden.",
    joined: "Sie sind beigetreten",
    joined_text: "Ihr Schlüssel ist am Gateway von `{profile}` eingetragen. Klicken Sie auf \
        Anklopfen.",
    join_refused: "Sie sind nicht beigetreten",
    pending: "Ihr Schlüssel wartet auf Zustimmung",
    pending_text: "Senden Sie diese Worte dem Administrator des Gateways, auf einem anderen Weg, \
        als die Einladung kam:",
    ask_again: "Noch einmal fragen",
    broken: "Dieses Profil ist unbrauchbar",
    ends_soon: "Ihre Eintragung endet in {time}. Bitten Sie den Administrator, sie zu verlängern.",
    no_profile: "Sie haben noch kein Profil",
    idle: "Klicken Sie auf Anklopfen, um {service} für Ihre Adresse zu öffnen.",
    no_window: "Es lässt sich kein Fenster öffnen: {error}\n\n\
        Es braucht einen Bildschirm mit OpenGL 2. Benutzen Sie stattdessen die \
        Befehlszeile: toctoc --help",
};
