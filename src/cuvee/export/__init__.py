"""Write a finished selection as the files another trainer reads."""
