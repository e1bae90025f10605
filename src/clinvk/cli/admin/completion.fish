# clinvk completion for fish: clinvk completion fish | source
function __clinvk_complete
    set -l current (commandline -ct)
    set -l flag (string match -r '^--[^=]*=' -- $current)
    set -l lines (command clinvk __complete (commandline -opc)[2..] "$current" </dev/null 2>/dev/null)
    switch "$lines[1]"
        case :dirs
            set lines (__fish_complete_directories (string replace -- "$flag" '' "$current") '')
        case :files
            set lines (__fish_complete_path (string replace -- "$flag" '' "$current") '')
    end
    printf '%s\n' "$flag"$lines
end
complete -c clinvk -f -a '(__clinvk_complete)'
