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
    join_taken: "Ein anderer Schlüssel hat diese Einladung schon benutzt. Waren Sie das nicht \
        selbst, hat jemand die Zeile gelesen: Sagen Sie es sofort dem Administrator, und bitten \
        Sie um eine neue Einladung auf einem anderen Weg.\n\
        Einzelheiten (englisch): {details}",
    join_denied: "Diese Einladung gilt nicht für Ihren Schlüssel, oder er ist dort schon \
        eingetragen. Fragen Sie den Administrator, welchen Schlüssel er eingeladen hat.\n\
        Einzelheiten (englisch): {details}",
    join_late: "Das Gateway wollte eine zweite Anfrage, und die kam nicht rechtzeitig an. \
        Versuchen Sie es noch einmal.\n\
        Einzelheiten (englisch): {details}",
    join_trouble: "Das Gateway konnte Ihren Schlüssel nicht eintragen. Sagen Sie es dem \
        Administrator: Das Protokoll dort nennt den Grund. Versuchen Sie es dann noch einmal.\n\
        Einzelheiten (englisch): {details}",
    join_ended: "Diese Einladung ist abgelaufen. Bitten Sie den Administrator um eine neue.\n\
        Einzelheiten (englisch): {details}",
    join_silence: "Vielleicht wurde die Einladung zurückgenommen, das Gateway läuft nicht, oder \
        ein Netz lässt UDP nicht durch. Fragen Sie den Administrator.\n\
        Einzelheiten (englisch): {details}",
    fault_no_key: "Der private Schlüssel dieses Profils wurde nicht gefunden, weder in einer \
        Datei noch im ssh-agent. Bringen Sie ihn an seinen Platz zurück, oder bitten Sie um eine \
        neue Einladung.\n\
        Einzelheiten (englisch): {details}",
    fault_passphrase: "Die Passphrase fehlt oder war falsch. Versuchen Sie es noch einmal.\n\
        Einzelheiten (englisch): {details}",
    fault_exposed: "Eine Datei, die nur Ihnen gehören darf, können auch andere lesen oder ändern. \
        Sie wird nicht benutzt, bevor das behoben ist. Der Befehl dafür steht am Ende.\n\
        Einzelheiten (englisch): {details}",
    fault_expired: "Ihre Eintragung an diesem Gateway ist abgelaufen. Bitten Sie den \
        Administrator, sie zu verlängern. Geht nur die Uhr dieses Computers falsch, dann stellen \
        Sie die Uhr.\n\
        Einzelheiten (englisch): {details}",
    fault_invitation: "Das ist keine vollständige Einladung. Kopieren Sie die ganze Zeile noch \
        einmal, von toctoc: bis zum Ende.\n\
        Einzelheiten (englisch): {details}",
    fault_impostor: "Vorsicht: Diese Einladung nennt ein Gateway, das Sie schon kennen, aber mit \
        einem anderen Schlüssel. Fragen Sie den Administrator des Gateways, bevor Sie \
        weitermachen.\n\
        Einzelheiten (englisch): {details}",
    fault_unsigned: "Der Schlüssel hat nicht unterschrieben. Stecken Sie den Sicherheitsschlüssel \
        ein und berühren Sie ihn, wenn Sie gefragt werden, oder bestätigen Sie es im ssh-agent.\n\
        Einzelheiten (englisch): {details}",
    fault_unreachable: "Das Gateway ist von hier nicht zu erreichen. Prüfen Sie das Netz.\n\
        Einzelheiten (englisch): {details}",
    fault_name: "Ein Profil oder eine Datei dieses Namens gibt es schon.\n\
        Einzelheiten (englisch): {details}",
    fault_input: "In einer Datei ist ein Fehler. Bitten Sie den Administrator um eine neue \
        Einladung.\n\
        Einzelheiten (englisch): {details}",
    fault_other: "Das ging nicht.\n\
        Einzelheiten (englisch): {details}",
    broken: "Dieses Profil ist unbrauchbar",
    ends_soon: "Ihre Eintragung endet in {time}. Bitten Sie den Administrator, sie zu verlängern.",
    no_profile: "Sie haben noch kein Profil",
    idle: "Klicken Sie auf Anklopfen, um {service} für Ihre Adresse zu öffnen.",
    no_window: "Es lässt sich kein Fenster öffnen: {error}\n\n\
        Es braucht einen Bildschirm mit OpenGL 2. Benutzen Sie stattdessen die \
        Befehlszeile: toctoc --help",
};
