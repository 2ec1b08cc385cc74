"""What each verb of the command line does: arguments in, words on the screen, exit code out."""
