//! French.

use super::Words;

pub const WORDS: Words = Words {
    language: "Langue",
    profile: "Profil",
    service: "Service",
    user: "Nom d’utilisateur là-bas (facultatif)",
    knock: "Frapper",
    connect: "Se connecter",
    end_grant: "Terminer l’accès",
    knocking: "Frappe à {gateway} …",
    closing: "Fin de l’accès …",
    joining: "Question à la passerelle …",
    invite: "Utiliser une invitation …",
    granted: "{service} est ouvert",
    granted_ports: "{address} peut joindre {ports} à {gateway} jusqu’à {until}.",
    granted_service: "{address} peut utiliser {service} à {gateway} jusqu’à {until}.",
    once: "Une seule connexion.",
    left: "encore {time}",
    ended: "L’accès est terminé",
    ended_advice: "Frappez de nouveau pour une nouvelle connexion.",
    closed: "Fermé",
    closed_text: "Vous n’avez plus d’accès à {service} à {gateway}.",
    partly: "{service} n’est ouvert que par une adresse",
    refused: "Refusé : rien n’a été ouvert",
    no_answer: "Pas de réponse",
    no_answer_text: "{gateway} n’a pas répondu ({knocks} essais). {service} est peut-être ouvert \
        tout de même.\n\
        • Ce réseau laisse-t-il passer UDP ? Essayez-en un autre.\n\
        • La passerelle fonctionne-t-elle à cette adresse ? Demandez à son administrateur.\n\
        • Votre clé y est-elle encore inscrite ? Demandez à son administrateur.\n\
        • Avez-vous frappé très souvent à l’instant ? Attendez une minute.\n\
        Une passerelle ne répond à rien qu’elle n’accepte, elle ne peut donc pas dire pourquoi.",
    not_sent: "Rien n’a été envoyé",
    denied: "La passerelle ne permet pas à cette clé d’ouvrir {service}. Demandez à son \
        administrateur si elle le devrait.",
    full: "Le nombre maximal d’accès est atteint, pour vous ou pour {service} en tout. Attendez \
        qu’un accès se termine, ou terminez le vôtre.",
    clock: "L’horloge de cet ordinateur est trop décalée. Réglez-la, puis frappez de nouveau.",
    challenge: "La passerelle a demandé de frapper une seconde fois, et cela n’est pas arrivé à \
        temps. Frappez de nouveau ; si vous avez frappé très souvent, attendez une minute.",
    trouble: "La passerelle n’a pas pu ouvrir {service}. Dites-le à son administrateur : \
        `toctocd status` y indique la raison. Si la garde y est désactivée, le service se passe \
        de frapper : connectez-vous.",
    replaced: "La passerelle vous voit comme {observed}, et ce n’est pas votre adresse : un \
        appareil devant la passerelle remplace celles de tous. Cet accès laisserait entrer tout \
        le monde. Dites-le à l’administrateur de la passerelle.",
    unnamed: "L’appel venait de {observed} et ne nommait aucune adresse.",
    everybodys: "La passerelle n’ouvre à personne pour {observed} : cette adresse peut être celle \
        de tous. Dites-le à l’administrateur de la passerelle.",
    public: "L’appel nommait {named}, mais venait de {observed} : un appareil en chemin a remplacé \
        votre adresse publique. Demandez à l’administrateur à qui est cette adresse.",
    other: "L’appel nommait {named}, mais venait de {observed} : quelqu’un en chemin l’a peut-être \
        détourné. Demandez à l’administrateur. Si {observed} est l’adresse de votre propre \
        réseau : toctoc open --source {observed}",
    place: "Connectez votre propre programme à {place}",
    no_program: "Aucun programme trouvé pour cela : {programs}. Installez-en un, ou connectez \
        votre propre programme à {place}.",
    program_failed: "{program} n’a pas pu démarrer : {error}",
    ssh_ended: "ssh est terminé. Entrée ferme cette fenêtre.",
    copy: "Copier",
    copied: "Copié",
    user_wrong: "Un nom d’utilisateur n’a que des lettres, des chiffres et . _ - @ \\.",
    passphrase: "Phrase secrète de {place}",
    passphrase_wanted: "Phrase secrète demandée",
    wrong_passphrase: "Phrase secrète fausse : encore une fois",
    ok: "OK",
    cancel: "Annuler",
    touch: "Touchez votre clé de sécurité ({key})",
    agent: "En attente du ssh-agent",
    join_title: "Utiliser une invitation",
    join_text: "L’administrateur d’une passerelle vous a envoyé une ligne qui commence par \
        toctoc:. Collez-la ici. Traitez-la comme un mot de passe : qui la lit en premier \
        peut l’utiliser.",
    line: "Invitation",
    join: "S’inscrire",
    key_new: "Vous n’avez pas encore de clé. Elle est créée sur cet ordinateur. Une phrase secrète \
        la protège si quelqu’un copie son fichier ; les deux champs peuvent rester vides.",
    new_passphrase: "Nouvelle phrase secrète",
    repeat_passphrase: "La même encore une fois",
    passphrases_differ: "Les deux phrases secrètes diffèrent.",
    joined: "Vous êtes inscrit",
    joined_text: "Votre clé est inscrite à la passerelle de `{profile}`. Appuyez sur Frapper.",
    join_refused: "Vous n’êtes pas inscrit",
    pending: "Votre clé attend une approbation",
    pending_text: "Envoyez ces mots à l’administrateur de la passerelle, par un autre chemin que \
        celui de l’invitation :",
    ask_again: "Demander encore",
    join_taken: "Une autre clé a déjà utilisé cette invitation. Si ce n’était pas vous, quelqu’un \
        d’autre a lu la ligne : dites-le tout de suite à l’administrateur et demandez une \
        nouvelle invitation par un autre chemin.\n\
        Détails (en anglais) : {details}",
    join_denied: "Cette invitation n’est pas pour votre clé, ou celle-ci y est déjà inscrite. \
        Demandez à l’administrateur quelle clé il a invitée.\n\
        Détails (en anglais) : {details}",
    join_late: "La passerelle a voulu une seconde demande, et elle n’est pas arrivée à temps. \
        Essayez encore une fois.\n\
        Détails (en anglais) : {details}",
    join_trouble: "La passerelle n’a pas pu inscrire votre clé. Dites-le à son administrateur : \
        le journal y indique la raison. Puis essayez encore une fois.\n\
        Détails (en anglais) : {details}",
    join_ended: "Cette invitation a expiré. Demandez-en une nouvelle à l’administrateur.\n\
        Détails (en anglais) : {details}",
    join_silence: "L’invitation a peut-être été retirée, la passerelle ne fonctionne pas, ou un \
        réseau ne laisse pas passer UDP. Demandez à l’administrateur.\n\
        Détails (en anglais) : {details}",
    fault_no_key: "La clé privée de ce profil est introuvable, dans un fichier comme dans le \
        ssh-agent. Remettez-la à sa place, ou demandez une nouvelle invitation.\n\
        Détails (en anglais) : {details}",
    fault_passphrase: "La phrase secrète manque ou était fausse. Essayez encore une fois.\n\
        Détails (en anglais) : {details}",
    fault_exposed: "D’autres peuvent lire ou changer un fichier qui doit n’être qu’à vous. Il \
        n’est pas utilisé avant que cela soit corrigé. La commande pour le faire est à la fin.\n\
        Détails (en anglais) : {details}",
    fault_expired: "Votre inscription à cette passerelle est terminée. Demandez à \
        l’administrateur de la renouveler. Si seule l’horloge de cet ordinateur est fausse, \
        réglez-la.\n\
        Détails (en anglais) : {details}",
    fault_invitation: "Ce n’est pas une invitation complète. Copiez encore la ligne entière, de \
        toctoc: jusqu’à la fin.\n\
        Détails (en anglais) : {details}",
    fault_impostor: "Attention : cette invitation nomme une passerelle que vous connaissez déjà, \
        mais avec une autre clé. Demandez à l’administrateur de la passerelle avant de continuer.\n\
        Détails (en anglais) : {details}",
    fault_unsigned: "La clé n’a pas signé. Branchez la clé de sécurité et touchez-la quand on \
        vous le demande, ou confirmez dans le ssh-agent.\n\
        Détails (en anglais) : {details}",
    fault_unreachable: "La passerelle ne peut pas être jointe d’ici. Vérifiez le réseau.\n\
        Détails (en anglais) : {details}",
    fault_name: "Un profil ou un fichier de ce nom existe déjà.\n\
        Détails (en anglais) : {details}",
    fault_input: "Il y a une erreur dans un fichier. Demandez une nouvelle invitation à \
        l’administrateur.\n\
        Détails (en anglais) : {details}",
    fault_other: "Cela n’a pas marché.\n\
        Détails (en anglais) : {details}",
    broken: "Ce profil est inutilisable",
    ends_soon: "Votre inscription se termine dans {time}. Demandez à l’administrateur de la \
        renouveler.",
    no_profile: "Vous n’avez pas encore de profil",
    idle: "Appuyez sur Frapper pour ouvrir {service} à votre adresse.",
    no_window: "Aucune fenêtre ne peut s’ouvrir : {error}\n\n\
        Il faut un écran avec OpenGL 2. Utilisez la ligne de commande : toctoc --help",
};
